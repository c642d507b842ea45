"""The in-order ledger: records are opened as they are read, settled in any order, released in arrival order.

From this one rule follow order per key, committed offsets that equal exactly what was published, and commits that
never wait for the GPU. Pure: no clock, no I/O. Records are settled on their slices; the ledger knows the slices' order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamer.slices import Lane, Rows, Slice


class Ledger:
    """The records in flight, by partition."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        """Records that are not released."""
        return self._count

    @property
    def bytes(self) -> int:
        """Bytes of their keys and values; those of a slice count until its last record is released."""
        return self._bytes

    def open(self, slices: Iterable[Slice]) -> list[Rows]:
        """Open all records of slices in the order in which they were read.

        Raises:
            Internal: an offset does not grow within its partition.
        """
        opened = []
        for columns in slices:
            lane = self._lanes.get(columns.partition)
            if lane is None:
                lane = self._lanes[columns.partition] = Lane(columns.partition)
            lane.open(columns)
            self._count += len(columns)
            self._bytes += columns.size
            opened.append(columns.rows())
        return opened

    def release(self) -> list[Rows]:
        """Take out the settled records that have no open record before them, in arrival order per partition."""
        released = [rows for lane in self._lanes.values() for rows in lane.release()]
        self._count -= sum(map(len, released))
        self._bytes -= sum(rows.size for rows in released)
        return released

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
            self._count -= sum(map(len, lane.slices)) - lane.released
            self._bytes -= sum(columns.size for columns in lane.slices)
            lane.slices.clear()
