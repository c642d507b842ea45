"""What is kept of an entity: its panes, which events are in them, and how far they go.

The windows process keeps it, a worker reads it, and a backfill makes it again. All three use these functions, so they
agree value by value.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b

import msgspec

from schemas import Event
from streamer.panes import DAY_S, Entity, Window, Windows, hash_of, time_of
from streamer.worker import Features

DAYS = 7
"""An event's id is remembered for so long, by event time: a producer that sends an event again does so within days."""
IDS_MAX = 1_000
"""Ids that are remembered of an entity; beyond that the oldest are forgotten."""
BYTES_MAX = 1_000_000
"""Of one entity; we write nothing larger."""
TABLE = "entities"
CHANGELOG = f"-{TABLE}-changelog"
"""The end of the changelog topic's name, as faust forms it."""


class Verdict(StrEnum):
    """What came of an event. `known`: its record is in already, and was read again after a crash; `repeated`: another
    record with its id is in; `late`: its time is before all that any span covers; `future`: it happened more than a day
    after its record was written."""

    TAKEN = "taken"
    KNOWN = "known"
    REPEATED = "repeated"
    LATE = "late"
    FUTURE = "future"


class Kept(msgspec.Struct, array_like=True):
    """One entity of one partition. `offset` belongs to the newest record in it; `seen` holds hashes of event ids by the
    day of the event."""

    offset: int = -1
    entity: Entity = msgspec.field(default_factory=Entity)
    seen: dict[int, list[int]] = msgspec.field(default_factory=dict)


class AsOf(msgspec.Struct, frozen=True):
    """What features are made of: the entity's records up to `offset`, and the event that is asked for. `time_ms` is the
    time of the newest of those records. Both are -1 where there is none."""

    offset: int
    time_ms: int


class Entities:
    """How events change what is kept, and what is known at an event."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = Windows(windows)
        layout = [(window.name, window.of, window.spans) for window in windows]
        self.version = blake2b(msgspec.json.encode(layout), digest_size=4).hexdigest()
        """A digest of the declarations: what was kept under other declarations says nothing under these. It does not
        cover what `value` takes: give the window another name when that changes."""

    def take(self, kept: Kept, event: Event, offset: int) -> Verdict:
        """Let a record's event change what is kept of its entity, once."""
        if offset <= kept.offset:
            return Verdict.KNOWN
        at_ms = time_of(event)
        day, identity = at_ms // (1000 * DAY_S), hash_of(event.event_id)
        if identity in kept.seen.get(day, ()):
            kept.offset = offset
            return Verdict.REPEATED
        taken = self._windows.add(kept.entity, event, at_ms)
        kept.offset = offset
        if not taken:
            return Verdict.LATE
        kept.seen.setdefault(day, []).append(identity)
        _forget(kept)
        return Verdict.TAKEN

    def known(self, kept: Kept, event: Event, offset: int) -> tuple[Features, AsOf]:
        """The features of the entity at an event, and what they were made of. Takes the event in if it is not in."""
        as_of = AsOf(kept.offset, kept.entity.newest_ms)
        self.take(kept, event, offset)
        return self._windows.at(kept.entity, time_of(event)), as_of


def windows_group(group: str, version: str) -> str:
    """The consumer group of a worker's windows. `group` is the worker's own. New declarations read from the start."""
    return f"{group}.windows.{version}"


def changelog(group: str, version: str) -> str:
    """The topic that holds what the windows keep."""
    return windows_group(group, version) + CHANGELOG


def days_group(group: str) -> str:
    """The consumer group and the transactional id of a worker's days process. `group` is the worker's own."""
    return f"{group}.days"


def encode(kept: Kept) -> bytes:
    """As MessagePack."""
    return _ENCODER.encode(kept)


def offset_of(data: bytes) -> int:
    """The offset alone of what `encode` made."""
    return _HEAD.decode(data).offset


def decode(data: bytes) -> Kept:
    """What `encode` made.

    Raises:
        ValueError: it is something else.
    """
    if len(data) > BYTES_MAX:
        raise ValueError(f"an entity of {len(data)} bytes, more than {BYTES_MAX}")
    return _DECODER.decode(data)


def _forget(kept: Kept) -> None:
    """Forget the ids of all days but the last `DAYS`, and the oldest beyond `IDS_MAX`."""
    newest = kept.entity.newest_ms // (1000 * DAY_S)
    for day in [day for day in kept.seen if day <= newest - DAYS]:
        del kept.seen[day]
    while (many := sum(map(len, kept.seen.values())) - IDS_MAX) > 0:
        oldest = min(kept.seen)
        del kept.seen[oldest][:many]
        if not kept.seen[oldest]:
            del kept.seen[oldest]


class _Head(msgspec.Struct, array_like=True):
    """The beginning of a `Kept`."""

    offset: int


_HEAD = msgspec.msgpack.Decoder(_Head)
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Kept)
