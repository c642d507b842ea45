"""Both ends of an engine without a broker: records from memory, and a sink that counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from streamer.clock import Deadline
from streamer.ports import Rebalance
from streamer.records import Message, Messages, Positions
from streamer.slices import Slice

PARTITIONS = 4
RUN = 500
"""Records of one partition that come one after the other, as a consumer finds a backlog."""
CHECKED = 2000
"""So many answers are kept to be looked at."""


class Backlog:
    """`count` records, which repeat `values`."""

    def __init__(self, topic: str, values: Sequence[bytes], count: int) -> None:
        self._topic, self._values, self._count = topic, values, count
        self._at = 0

    def subscribe(self, rebalance: Rebalance) -> None:
        rebalance.assigned(range(PARTITIONS))

    def poll(self, records_max: int, timeout_s: float) -> list[Slice]:
        start, self._at = self._at, min(self._at + records_max, self._count)
        if start == self._at and records_max:
            time.sleep(timeout_s)
        values, slices = self._values, []
        while start < self._at:
            run = range(start, min(self._at, (start // RUN + 1) * RUN))
            keys, read = [b"key-%d" % n for n in run], [values[n % len(values)] for n in run]
            slices.append(Slice(self._topic, start // RUN % PARTITIONS, run, keys, read, None, [1] * len(run)))
            start = run.stop
        return slices

    def group(self) -> str:
        return "nobody else"

    def committed(self, partitions: Sequence[int], timeout_s: float) -> Positions:
        return {}

    def commit(self, positions: Positions) -> None:
        """Nothing is kept."""

    def rewind(self, positions: Positions) -> None:
        raise AssertionError("nobody has moved a partition")

    def lag(self) -> dict[int, int]:
        return {}

    def close(self) -> None:
        """There is no group to leave."""


class Counter:
    """A sink that counts, and keeps the first answers."""

    def __init__(self) -> None:
        self.messages = 0
        self.first: list[Message] = []

    def write(self, messages: Sequence[Messages]) -> None:
        self.messages += sum(map(len, messages))
        if len(self.first) < CHECKED:
            self.first += [message for run in messages for message in run]

    def hand_over(self, deadline: Deadline) -> None:
        """It has everything already."""

    def begin(self, positions: Positions, deadline: Deadline) -> Callable[[], None]:
        return lambda: None

    def confirm(self) -> None:
        """Nothing is kept."""

    def recover(self, deadline: Deadline) -> None:
        """Nothing is ever unclear."""

    def serve(self) -> None:
        """No client."""

    def forget(self, partitions: Sequence[int]) -> None:
        """Nothing is kept."""

    def close(self, deadline: Deadline) -> None:
        """Nothing is open."""
