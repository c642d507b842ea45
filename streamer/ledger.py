"""The in-order ledger: records are opened as they are read, settled in any order, released in arrival order.

From this one rule follow order per key, positions that equal exactly what was published, and commits that never
wait for the GPU. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from streamer.errors import Internal
from streamer.records import Item, Outcome, Record, Released


class Lane:
    """The open records of one partition during one assignment.

    A lane that is `gone` stays with its items: whatever is settled on it later has no effect, which is what
    makes an answer for a partition that was given up harmless.
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
        """Bytes of the runs that ended before this position and were not told of yet."""
        size = 0
        while self.sizes and self.sizes[0][0] < position:
            size += self.sizes.popleft()[1]
        return size


class Ledger:
    """Who is in flight, per partition."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        """Records that are open."""
        return self._count

    @property
    def bytes(self) -> int:
        """Bytes of keys and values that are open; of those that were opened together, until the last is released."""
        return self._bytes

    def open(self, records: Iterable[Record]) -> list[Item]:
        """Open records in the order they were read.

        Raises:
            Internal: an offset does not grow within its partition.
        """
        opened: list[Item] = []
        for partition, run in groupby(records, attrgetter("partition")):
            lane = self._lanes.get(partition)
            if lane is None:
                lane = self._lanes[partition] = Lane(partition)
            opened += lane.open(list(run))
            self._bytes += lane.sizes[-1][1]
        self._count += len(opened)
        return opened

    def settle(self, item: Item, outcome: Outcome) -> None:
        """Give an item its one outcome.

        Raises:
            Internal: it has one already.
        """
        if item.outcome is not None:
            raise Internal(f"offset {item.record.offset} of partition {item.record.partition} was settled twice")
        item.outcome = outcome

    def settle_all(self, items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
        """Give each item its one outcome.

        Raises:
            Internal: one of them has one already.
        """
        for item, outcome in zip(items, outcomes, strict=True):
            if item.outcome is not None:
                self.settle(item, outcome)  # says which
            item.outcome = outcome

    def release(self) -> list[Released]:
        """Take out what is settled with nothing open before it, in arrival order per partition."""
        found = []
        for lane in self._lanes.values():
            if items := lane.release():
                size = lane.released_bytes(items[-1].record.offset + 1)
                self._count -= len(items)
                self._bytes -= size
                found.append(Released(lane.partition, items, size))
        return found

    def partitions(self) -> list[int]:
        """The partitions that records were opened of."""
        return list(self._lanes)

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the lanes of partitions that were given up; what was in flight for them no longer counts."""
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            if lane is None:
                continue
            lane.gone = True
            self._count -= len(lane.items)
            self._bytes -= sum(size for _, size in lane.sizes)
            lane.items.clear()
