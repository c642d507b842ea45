"""The small values of the engine: what is read, what is published, what becomes of a record. An offset in a `Record` is
that of the record; an offset in `Positions` is the next one to read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType

import msgspec

from streamer.errors import Reason

Headers = list[tuple[str, bytes]]
NO_HEADERS: Headers = []
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


class Messages(msgspec.Struct, frozen=True, gc=False):
    """Records to publish in order, of one partition of the source to one topic, as columns of one length. `headers` is
    None when none of them has any."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Message]:
        headers = self.headers or repeat(NO_HEADERS)
        for key, value, said in zip(self.keys, self.values, headers, strict=False):  # repeated without end
            yield Message(self.topic, self.partition, key, value, said)

    def after(self, count: int) -> Messages:
        """The same without the first `count`."""
        headers = self.headers and self.headers[count:]
        return Messages(self.topic, self.partition, self.keys[count:], self.values[count:], headers)


class Cached(msgspec.Struct, frozen=True, gc=False):
    """The worker's answer as JSON, which was not computed for this record."""

    answer: bytes


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The record becomes a dead letter."""

    reason: Reason
    message: str
    error: str


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """The worker's own filter declined the record: counted, not published."""


Rare = Cached | Rejected | Skipped
Outcome = bytes | Rare
"""What becomes of a record: the worker's answer to it as JSON, or one of the rarer ends."""
RARE = b""
"""Stands in the column of answers where the outcome is among the rare ones: no answer is empty."""

NO_FEATURES: Mapping[str, float] = MappingProxyType({})


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
