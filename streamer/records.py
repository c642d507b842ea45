"""The small values that travel through the engine. An offset in a `Record` is that of the record; an offset in
`Positions` is the next one to read."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from streamer.errors import Internal, Reason

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


class Item(msgspec.Struct, eq=False, gc=False):
    """One record on its way through the engine; the only mutable value, owned by the owner thread.

    `event` is the decoded event (None until decoded). `entity` names the entity whose `features` it needs, and `as_of`
    the records that these are made of (an `AsOf` of `streamer.features.entities`, or None). `cost` is its length in the
    worker's unit, `due` the clock time by which its batch should start, `cache_key` the key of its answer in the cache,
    `followers` the items that wait for the same answer.

    The garbage collector does not walk it: the cycle of item and lane ends when the item is released or its lane is
    forgotten, and one of both always happens.
    """

    record: Record
    lane: Lane
    event: Any = None
    entity: str | None = None
    features: Mapping[str, float] = NO_FEATURES
    as_of: Any = None
    cost: int = 1
    due: float | None = None
    cache_key: bytes | None = None
    followers: list[Item] | None = None
    outcome: Outcome | None = None


class Lane:
    """The open records of one partition during one assignment.

    A lane that is `gone` stays with its items. Whatever is settled on it later has no effect, so an answer for a
    partition that was given up is harmless.
    """

    __slots__ = ("gone", "items", "opened", "partition", "sizes")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.items: deque[Item] = deque()
        self.sizes: deque[tuple[int, int]] = deque()  # of each run that was opened: its last offset and its bytes
        self.opened = -1
        self.gone = False

    def open(self, records: Sequence[Record]) -> list[Item]:
        """Append records, whose offsets must grow.

        Raises:
            Internal: they do not.
        """
        last = self.opened
        for record in records:
            if record.offset <= last:
                raise Internal(
                    f"offset {record.offset} of partition {self.partition} came after {last}: "
                    "the source must hand out growing offsets"
                )
            last = record.offset
        self.opened = last
        self.sizes.append((last, sum([len(record.value or b"") + len(record.key or b"") for record in records])))
        items = [Item(record, self) for record in records]
        self.items.extend(items)
        return items

    def release(self) -> list[Item]:
        """Take out the settled items with nothing open before them."""
        items = self.items
        open_at = (at for at, item in enumerate(items) if item.outcome is None)
        return [items.popleft() for _ in range(next(open_at, len(items)))]

    def released_bytes(self, position: int) -> int:
        """Bytes of the runs that ended before this position and were not returned before."""
        size = 0
        while self.sizes and self.sizes[0][0] < position:
            size += self.sizes.popleft()[1]
        return size


class Released(msgspec.Struct, frozen=True):
    """The settled items that one partition's lane released, in arrival order, and their bytes."""

    partition: int
    items: list[Item]
    size: int

    @property
    def rejected(self) -> list[Item]:
        """The items that become dead letters."""
        return [item for item in self.items if type(item.outcome) is Rejected]

    @property
    def position(self) -> int:
        """The next offset to read, once these items are durable."""
        return self.items[-1].record.offset + 1


# fmt: off
BUCKETS = (
    1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512,
    768, 1024,
)
# fmt: on
"""Small steps where texts are: near full load they gave twice the goodput in `benchmarks.batching`."""


class BatchPolicy(msgspec.Struct, frozen=True):
    """Limits of one batch.

    `items_max` items and `cost_max` padded cost at most (a single item may cost more: it runs alone);
    `linger_s` how long an idle runner waits for more (0: never); `goal_s` the time from an event's own
    timestamp to its answer (None: no goal); `buckets` the upper bounds of the lengths padded together, growing.
    """

    items_max: int = 1024
    cost_max: int = 1 << 20
    linger_s: float = 0.0
    goal_s: float | None = None
    buckets: tuple[int, ...] = BUCKETS

    def bound(self, cost: int) -> int:
        """The length that an item of this cost is padded to when it is the longest of its batch's bucket."""
        at = bisect_left(self.buckets, cost)
        return self.buckets[at] if at < len(self.buckets) else cost

    def items_of(self, bound: int) -> int:
        """How many items of one bucket fill a batch."""
        return max(1, min(self.items_max, self.cost_max // bound))


class Batch(msgspec.Struct, frozen=True):
    """What the runner gets: items in the batcher's order, why they were released, their padded cost, and how long the
    first of them waited."""

    items: list[Item]
    reason: str
    cost: int
    waited_s: float


class BatchResult(msgspec.Struct, frozen=True):
    """What the runner gives back: one answer (JSON bytes) or rejection an item, in the batch's order."""

    batch: Batch
    outcomes: list[Predicted | Rejected]
    seconds: float
