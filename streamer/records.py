"""The small values that travel through the engine. Offsets always mean "this record" in a `Record`,
and "next to read" in positions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.errors import Reason

if TYPE_CHECKING:
    from streamer.ledger import Lane

Headers = list[tuple[str, bytes]]
Positions = dict[int, int]
"""Partition of the source topic to the offset that is to be read next."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of the source topic, as it was read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp_ms: int

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.value or b"") + len(self.key or b"")


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record to publish. `partition` is the source's: the sink folds it onto the partitions of `topic`."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Predicted(msgspec.Struct, frozen=True, gc=False):
    """The worker's answer as JSON; `cached` says that it was not computed for this record."""

    answer: bytes
    cached: bool


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The record becomes a dead letter."""

    reason: Reason
    message: str
    error: str


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """The worker's own filter declined the record: counted, not published."""


Outcome = Predicted | Rejected | Skipped


NO_FEATURES: Mapping[str, float] = MappingProxyType({})


class Item:
    """One record on its way through the engine; the only mutable value, owned by the owner thread.

    `event` is the decoded event (None until decoded), `features` what the feature store knows of its entity,
    `cost` its share of a batch in the worker's unit, `due` the clock time by which its batch should start,
    `cache_key` what it is cached under, `followers` the items that wait for the same answer.
    """

    __slots__ = ("cache_key", "cost", "due", "event", "features", "followers", "lane", "outcome", "record")

    def __init__(self, record: Record, lane: Lane) -> None:
        self.record = record
        self.lane = lane
        self.event: Any = None
        self.features: Mapping[str, float] = NO_FEATURES
        self.cost = 1
        self.due: float | None = None
        self.cache_key: bytes | None = None
        self.followers: list[Item] | None = None
        self.outcome: Outcome | None = None


class Batch(msgspec.Struct, frozen=True):
    """What the runner is given: items in the batcher's order, why they were released, their padded cost, and
    how long the first of them waited."""

    items: list[Item]
    reason: str
    cost: int
    waited_s: float


class BatchResult(msgspec.Struct, frozen=True):
    """What the runner gives back: one answer (JSON bytes) or rejection an item, in the batch's order."""

    batch: Batch
    outcomes: list[Predicted | Rejected]
    seconds: float
