"""The in-order ledger: records are opened as they are read, settled in any order, released in arrival order.

From this one rule follow order per key, committed offsets that equal exactly what was published, and commits that
never wait for the GPU. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from streamer.errors import Internal
from streamer.records import Item, Lane, Outcome, Record, Released


class Ledger:
    """The records in flight, by partition."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        """Records that are open."""
        return self._count

    @property
    def bytes(self) -> int:
        """Bytes of open keys and values; those of records that were opened together count until the last is
        released."""
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
        """Take out the settled records that have no open record before them, in arrival order per partition."""
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
        """Drop the lanes of partitions that were given up; their records in flight no longer count."""
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            if lane is None:
                continue
            lane.gone = True
            self._count -= len(lane.items)
            self._bytes -= sum(size for _, size in lane.sizes)
            lane.items.clear()
