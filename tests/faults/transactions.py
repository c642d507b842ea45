"""Was every transaction whole? Read from the brokers' own logs, transaction by transaction.

The oracle compares what is there at the end. A torn transaction can hide from it: when outputs were committed and the
positions that belong to them only with the next transaction, all is exact in the end, but a crash in between would have
repeated them. So this takes each transaction that the coordinator committed, finds the outputs and the positions that
came with it, and holds them against each other: the outputs of each source partition must be exactly those of the
records between its position before and its new one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.faults.checker import Input, Output, Place
from tests.faults.segments import Batch, Fields, batches, pairs

OFFSETS, STATES = "__consumer_offsets", "__transaction_state"
PREPARE_COMMIT, PREPARE_ABORT = 2, 3
LogPlace = tuple[str, int]
"""Topic and partition."""


class Decision(NamedTuple):
    """How the coordinator decided to end a transaction, and the partitions that it has written to."""

    transactional_id: str
    producer_id: int
    started_ms: int
    partitions: tuple[LogPlace, ...]
    commit: bool


@dataclass
class Transaction:
    """What one committed transaction holds, per source partition: offsets that it has answered, and the position."""

    name: str
    outputs: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    positions: dict[int, int] = field(default_factory=dict)


@dataclass
class Audit:
    """`torn` and `open` are empty when all is well; `rebalances` are the group's generations, or epochs."""

    committed: int = 0
    torn: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    rebalances: int = 0


class Logs:
    """The logs of all brokers; of a partition the longest, as the others follow it."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def batches(self, topic: str, partition: int) -> Iterator[Batch]:
        """Nothing where there is no such partition."""
        return batches(max((path / f"{topic}-{partition}" for path in self._folders), key=_bytes))

    def partitions(self, topic: str) -> list[int]:
        names = {path.name for folder in self._folders for path in folder.glob(f"{topic}-*")}
        return sorted(int(name.rpartition("-")[2]) for name in names)


def audit(logs: Logs, group: str, inputs: Sequence[Input], outputs: Sequence[Output]) -> Audit:
    """Every transaction of the group's workers, held against what went in."""
    answered = {(one.topic, one.partition, one.offset): one.place for one in outputs}
    decisions = decided(logs, group)
    written = Written(logs, decisions)
    transactions = [_transaction(one, written, group, answered) for one in decisions]
    result = Audit(len(decisions), written.surplus(), written.open, rebalances(logs, group))
    result.torn += torn(transactions, inputs)
    return result


def torn(transactions: Iterable[Transaction], inputs: Iterable[Input]) -> list[str]:
    """What is not whole. The order of a partition's transactions is that of its positions."""
    answers: dict[int, set[int]] = defaultdict(set)
    for given in inputs:
        if given.outcome != "skip":
            answers[given.place[1]].add(given.place[2])
    found = []
    steps: dict[int, list[tuple[int, Transaction]]] = defaultdict(list)
    for one in transactions:
        for partition, position in one.positions.items():
            steps[partition].append((position, one))
        for partition in one.outputs.keys() - one.positions.keys():
            found.append(f"{one.name}: {len(one.outputs[partition])} outputs of partition {partition}, no position")
    for partition, moves in steps.items():
        before = 0
        for position, one in sorted(moves, key=lambda move: move[0]):
            want = [offset for offset in range(before, position) if offset in answers[partition]]
            got = sorted(one.outputs.get(partition, ()))
            if want != got:
                found.append(
                    f"{one.name}: partition {partition} moves from {before} to {position} with {len(got)} outputs"
                    f" ({got[:1]} to {got[-1:]}), not {len(want)}"
                )
            before = position
    return found


class Written:
    """What each of these producers has committed to each partition: one run of batches a transaction, in order. The
    partitions of the offsets topic hold those of other groups too."""

    def __init__(self, logs: Logs, decisions: Sequence[Decision]) -> None:
        self.runs: dict[tuple[int, LogPlace], list[list[Batch]]] = defaultdict(list)
        self.open: list[str] = []
        self._taken: dict[tuple[int, LogPlace], int] = defaultdict(int)
        self._producers = {one.producer_id for one in decisions}
        for place in sorted({place for one in decisions for place in one.partitions}):
            self._read(logs, place)

    def take(self, producer_id: int, place: LogPlace) -> list[Batch]:
        """The next transaction of this producer here; a partition that it had joined holds something of it."""
        runs, at = self.runs[producer_id, place], self._taken[producer_id, place]
        self._taken[producer_id, place] += 1
        return runs[at] if at < len(runs) else []

    def surplus(self) -> list[str]:
        """Where there is more, or less, than the coordinator has decided to commit."""
        return [
            f"producer {who}: {len(runs)} transactions in {place}, its coordinator decided {self._taken[who, place]}"
            for (who, place), runs in self.runs.items()
            if len(runs) != self._taken[who, place]
        ]

    def _read(self, logs: Logs, place: LogPlace) -> None:
        pending: dict[int, list[Batch]] = defaultdict(list)
        for batch in logs.batches(*place):
            if not batch.transactional or batch.producer_id not in self._producers:
                continue
            if not batch.marker:
                # Of an output its offset is enough; its bytes would be the whole topic in memory.
                pending[batch.producer_id].append(batch if place[0] == OFFSETS else batch._replace(records=b""))
            elif (run := pending.pop(batch.producer_id, None)) and batch.marker == "commit":
                self.runs[batch.producer_id, place].append(run)
        self.open += [f"producer {who} has an open transaction in {place}" for who in pending]


def _transaction(
    decision: Decision, written: Written, group: str, answered: Mapping[tuple[str, int, int], Place]
) -> Transaction:
    one = Transaction(f"{decision.transactional_id} at {decision.started_ms}")
    for topic, partition in decision.partitions:
        for batch in written.take(decision.producer_id, (topic, partition)):
            if topic == OFFSETS:
                one.positions |= positions(batch, group)
                continue
            for offset in range(batch.first, batch.last + 1):
                if place := answered.get((topic, partition, offset)):  # else no reader is shown it: one is missing
                    one.outputs[place[1]].append(place[2])
    return one


def decided(logs: Logs, group: str) -> list[Decision]:
    """Each transaction of this group's workers that its coordinator has decided to commit, in order per worker.

    One that does not hear in time whether its decision was kept has not decided: it may write it again, or, when the
    transaction has timed out meanwhile, the other one (both seen of Kafka 4.4.0). The last one is what it acts on; had
    it acted on two, the logs would hold more commits than decisions."""
    found: dict[tuple[str, int], Decision] = {}
    for number in logs.partitions(STATES):
        for batch in logs.batches(STATES, number):
            if batch.marker:
                continue
            for key, value in pairs(batch.records, batch.count):
                decision = _decision(key, value)
                if decision and decision.transactional_id.startswith(f"{group}."):
                    found[decision.transactional_id, decision.started_ms] = decision
    return [decision for decision in found.values() if decision.commit]


def _decision(key: bytes | None, value: bytes | None) -> Decision | None:
    if key is None or value is None:
        return None
    name, state = Fields(key), Fields(value)
    if name.int16() != 0:
        return None
    transactional_id = name.text()
    if state.int16() != 1:
        raise ValueError("transaction states of version 1 are read only, those of transaction.version 1 and 2")
    producer_id, _epoch, _timeout_ms, status = state.int64(), state.int16(), state.int32(), state.int8()
    if status not in (PREPARE_COMMIT, PREPARE_ABORT):
        return None
    partitions = tuple(_places(state))
    _updated_ms, started_ms = state.int64(), state.int64()
    return Decision(transactional_id, producer_id, started_ms, partitions, status == PREPARE_COMMIT)


def _places(state: Fields) -> Iterator[LogPlace]:
    for _ in range(state.compact_length()):
        topic = state.compact_text()
        yield from [(topic, state.int32()) for _ in range(state.compact_length())]
        state.skip_tags()


def positions(batch: Batch, group: str) -> dict[int, int]:
    """What a batch of the offsets topic says of a group that reads one topic."""
    found = {}
    for key, value in pairs(batch.records, batch.count):
        name = Fields(key or b"")
        if key and value and name.int16() in (0, 1) and name.text() == group:
            _topic, partition = name.text(), name.int32()
            offset = Fields(value)
            offset.int16()
            found[partition] = offset.int64()
    return found


def rebalances(logs: Logs, group: str) -> int:
    """How many generations the group has had (classic protocol), or epochs (consumer protocol)."""
    seen = set()
    for batch in logs.batches(OFFSETS, coordinator_partition(group, len(logs.partitions(OFFSETS)))):
        if batch.marker:
            continue
        for key, value in pairs(batch.records, batch.count):
            name = Fields(key or b"")
            kind = name.int16() if key and value else -1
            if kind in (2, 3) and name.text() == group:
                said = Fields(value or b"")
                said.int16()
                if kind == 2:
                    said.text()  # the protocol's type
                seen.add(said.int32())
    return len(seen)


def coordinator_partition(name: str, count: int) -> int:
    """In which partition of an internal topic a group or a transactional id lives: Java's hash of its name."""
    number = 0
    for letter in name:
        number = (31 * number + ord(letter)) & 0xFFFFFFFF
    return min(number, 2**32 - number) % max(1, count)  # the absolute value of a signed number of 32 bits


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.log"))
