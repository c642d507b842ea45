"""Messages of the client become columns: a call a column and slice, where a value object a record took most of the
time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from operator import methodcaller
from typing import Any

from streamer.records import Headers
from streamer.slices import Slice


def by_partition(messages: Iterable[Any]) -> dict[int, list[Any]]:
    """The messages of each partition, in the order in which they came."""
    found: dict[int, list[Any]] = {}
    for partition, run in groupby(messages, methodcaller("partition")):
        found.setdefault(partition, []).extend(run)
    return found


def columns(topic: str, partition: int, messages: Sequence[Any], position: int) -> Slice | None:
    """The records from a position on, in growing order; None when there are none. What was read before a rewind is
    left out."""
    offsets = [message.offset() for message in messages]
    if offsets[0] < position or offsets != list(range(offsets[0], offsets[0] + len(offsets))):
        messages = list(_from(messages, position))
        offsets = [message.offset() for message in messages]
    if not offsets:
        return None
    headers = _headers(messages)
    return Slice(
        topic,
        partition,
        offsets,
        [message.key() for message in messages],
        [message.value() for message in messages],
        headers if any(headers) else None,
        [message.timestamp()[1] for message in messages],
    )


def _from(messages: Iterable[Any], position: int) -> Iterable[Any]:
    for message in messages:
        if message.offset() >= position:
            position = message.offset() + 1
            yield message


def _headers(messages: Sequence[Any]) -> list[Headers | None]:
    """The headers of each; None where a name is no text. Each is asked once: after a failure it gives half of them."""
    found: list[Headers | None] = []
    while len(found) < len(messages):
        try:
            found.extend(map(methodcaller("headers"), islice(messages, len(found), None)))
        except (SystemError, UnicodeDecodeError):
            found.append(None)
    return found
