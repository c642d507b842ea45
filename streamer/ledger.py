"""The in-order ledger: records are opened as they are read, settled in any order, released in arrival order.

From this one rule follow order per key, positions that equal exactly what was published, and commits that never
wait for the GPU. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from streamer.errors import Internal
from streamer.records import Item, Outcome, Positions, Record


class Lane:
    """The open records of one partition during one assignment.

    A lane that is `gone` stays with its items: whatever is settled on it later has no effect, which is what
    makes an answer for a partition that was given up harmless.
    """

    __slots__ = ("gone", "items", "opened", "partition")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.items: deque[Item] = deque()
        self.opened = -1
        self.gone = False


class Ledger:
    """Who is in flight, per partition."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._count = 0
        self._bytes = 0
        self._positions: Positions = {}

    def __len__(self) -> int:
        """Records that are open."""
        return self._count

    @property
    def bytes(self) -> int:
        """Bytes of keys and values that are open."""
        return self._bytes

    def open(self, records: Iterable[Record]) -> list[Item]:
        """Open records in the order they were read.

        Raises:
            Internal: an offset does not grow within its partition.
        """
        items = []
        for record in records:
            lane = self._lanes.get(record.partition)
            if lane is None:
                lane = self._lanes[record.partition] = Lane(record.partition)
            if record.offset <= lane.opened:
                raise Internal(
                    f"offset {record.offset} of partition {record.partition} came after {lane.opened}: "
                    "the source must hand out growing offsets"
                )
            lane.opened = record.offset
            item = Item(record, lane)
            lane.items.append(item)
            items.append(item)
            self._bytes += record.size
        self._count += len(items)
        return items

    def settle(self, item: Item, outcome: Outcome) -> None:
        """Give an item its one outcome.

        Raises:
            Internal: it has one already.
        """
        if item.outcome is not None:
            raise Internal(f"offset {item.record.offset} of partition {item.record.partition} was settled twice")
        item.outcome = outcome

    def release(self) -> list[Item]:
        """Take out what is settled with nothing open before it, in arrival order per partition."""
        released: list[Item] = []
        for lane in self._lanes.values():
            items = lane.items
            before = len(released)
            while items and items[0].outcome is not None:
                item = items.popleft()
                self._bytes -= item.record.size
                released.append(item)
            if len(released) > before:
                self._positions[lane.partition] = released[-1].record.offset + 1
        self._count -= len(released)
        return released

    def positions(self) -> Positions:
        """The position after the last released record of every partition released from since the last call."""
        positions, self._positions = self._positions, {}
        return positions

    def partitions(self) -> list[int]:
        """The partitions that records were opened of."""
        return list(self._lanes)

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the lanes of partitions that were given up; what was in flight for them no longer counts."""
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            self._positions.pop(partition, None)
            if lane is None:
                continue
            lane.gone = True
            self._count -= len(lane.items)
            self._bytes -= sum(item.record.size for item in lane.items)
            lane.items.clear()
