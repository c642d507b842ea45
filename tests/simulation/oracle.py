"""The verdict on a schedule: what a read_committed reader finds against what was written, and what must always hold."""

from __future__ import annotations

from collections import defaultdict

from tests.faults.checker import Input, Outcome, Output, check
from tests.simulation.broker import Broker, Entry, State
from tests.simulation.parts import DEAD, SOURCE, TARGET

FATES: dict[bytes, Outcome] = {
    b"answer": "prediction",
    b"skip": "skip",
    b"dead": "dead letter",
    b"broken": "dead letter",
}


class Books:
    """Watches one broker while a schedule runs, and counts at its end."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._found: list[str] = []
        self._positions: dict[int, int] = {}
        broker.on_commit = self._on_commit

    def _on_commit(self, transactional_id: str, moved: dict[int, int]) -> None:
        for partition, position in moved.items():
            before = self._positions.get(partition, 0)
            if position < before:
                self._found.append(f"{transactional_id} moved partition {partition} back from {before} to {position}")
            self._positions[partition] = position

    def behind(self) -> dict[int, int]:
        """Records that are or may become visible and that the group's position has not passed, by partition."""
        positions = self._broker.group.positions
        found = {}
        for (topic, partition), log in self._broker.logs.items():
            if topic == SOURCE:
                position = positions.get(partition, 0)
                found[partition] = sum(entry.state in (State.COMMITTED, State.OPEN) for entry in log.entries[position:])
        return found

    def drained(self) -> bool:
        """Whether everything has been answered."""
        return not any(self.behind().values())

    def close(self) -> None:
        """Nothing happens any more: count."""
        inputs = [
            _input(partition, entry)
            for (topic, partition), log in self._broker.logs.items()
            if topic == SOURCE
            for entry in log.visible()
        ]
        outputs = [
            _output(topic, partition, entry)
            for (topic, partition), log in self._broker.logs.items()
            if topic != SOURCE
            for entry in log.visible()
        ]
        report = check(inputs, outputs)
        if report.complaints:
            self._found.append(str(report))
        self._find_torn()
        if any(log.open for log in self._broker.logs.values()) or self._broker.group.pending:
            self._found.append("a transaction is open for ever")
        self._find_wrong_positions(inputs)

    def complaints(self) -> list[str]:
        """What is not as it should be."""
        return self._found

    def _find_torn(self) -> None:
        """A client's transaction is visible whole or not at all."""
        states: dict[int, set[State]] = defaultdict(set)
        for (topic, _), log in self._broker.logs.items():
            if topic != SOURCE:
                for entry in log.entries:
                    if entry.state is not State.MARKER:
                        states[entry.serial].add(entry.state)
        torn = [serial for serial, found in states.items() if len(found) > 1]
        if torn:
            self._found.append(f"{len(torn)} torn transactions")

    def _find_wrong_positions(self, inputs: list[Input]) -> None:
        """Each position is just past the last record that was answered."""
        last: dict[int, int] = {}
        for given in inputs:
            last[given.place[1]] = given.place[2] + 1
        positions = self._broker.group.positions
        if any(positions.get(partition, 0) != position for partition, position in last.items()):
            self._found.append(f"positions are {positions}, not {last}")


def _input(partition: int, entry: Entry) -> Input:
    number, fate = (entry.value or b"").split(b":")
    return Input((SOURCE, partition, entry.offset), entry.key, FATES[fate], number.decode(), 2.0 * int(number))


def _output(topic: str, partition: int, entry: Entry) -> Output:
    source, offset, double = (entry.value or b"").split(b":")
    place = (SOURCE, int(source), int(offset))
    if topic == DEAD:
        return Output(place, entry.key, "dead letter", topic, partition)
    assert topic == TARGET
    answer = float(double)
    name = f"echo/{SOURCE}/{int(source)}/{int(offset)}"
    return Output(place, entry.key, "prediction", topic, partition, f"{round(answer / 2)}", answer, name)
