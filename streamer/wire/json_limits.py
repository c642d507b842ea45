"""Limits on valid JSON: its depth, its keys and its numbers must stay within what a sensible event has.

Every parser here is linear in the bytes, and `limits.record_bytes_max` bounds those. These limits protect the code
after the parser, which may be a worker's own, from strange shapes.

Of equal keys the last one counts, as in every parser here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from streamer.errors import Reason

DEPTH_MAX = 32
KEYS_MAX = 10_000
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""The integers that a tensor can hold."""

LIST, TABLE = b"["[0], b"{"[0]
BRACKETS = bytes.maketrans(b"{}", b"[]")
ALL_ELSE = bytes(set(range(256)) - set(b"{}[]"))


def opened(value: bytes) -> int:
    """How many lists and tables are opened, brackets within strings included: never less than the depth."""
    return value.count(LIST) + value.count(TABLE)


def depth(value: bytes) -> int:
    """How deep valid JSON is nested; for anything else the number means nothing."""
    brackets = np.frombuffer(outside(value).translate(BRACKETS, ALL_ELSE), np.uint8)
    steps = np.where(brackets == LIST, np.int8(1), np.int8(-1))
    return int(steps.cumsum(dtype=np.int32).max(initial=0))


def outside(value: bytes) -> bytes:
    """Valid JSON without the content of its strings."""
    bare = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(bare.split(b'"')[::2])


def exceeded(value: bytes, event: BaseModel) -> tuple[Reason, str] | None:
    """Why an event is refused although pydantic has read it from `value`; None when it is not."""
    if opened(value) > DEPTH_MAX and (found := depth(value)) > DEPTH_MAX:
        return Reason.TOO_DEEP, f"the JSON is nested {found} deep, more than {DEPTH_MAX}"
    if value.count(b":") > KEYS_MAX and (found := outside(value).count(b":")) > KEYS_MAX:
        return Reason.TOO_MANY_KEYS, f"the JSON has {found} keys, more than {KEYS_MAX}"
    if (b"NaN" in value or b"Infinity" in value) and any(word in outside(value) for word in (b"NaN", b"Infinity")):
        return Reason.NOT_JSON, "NaN and Infinity are not JSON; leave the field out"
    if not _fit(event):
        return Reason.INVALID, "an integer takes more than 64 bits"
    return None


def _fit(event: BaseModel) -> bool:
    """Whether every integer of an event, however deep, takes 64 bits."""
    todo: list[Any] = [event]
    while todo:
        value = todo.pop()
        if type(value) is int:
            if not INT_MIN <= value <= INT_MAX:
                return False
        elif isinstance(value, BaseModel):
            todo += value.__dict__.values()
            todo += (value.__pydantic_extra__ or {}).values()
        elif isinstance(value, Mapping):
            todo += value
            todo += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
    return True
