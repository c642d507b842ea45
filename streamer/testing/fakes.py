"""A fake for every port of the engine: a script instead of a broker, a clock that moves only while a caller waits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any

from streamer.clock import Clock, Deadline
from streamer.device.runner import Inference
from streamer.errors import Aborted, Internal, Unclear, Wait
from streamer.ports import Commit, Rebalance
from streamer.records import Message, Messages, Positions, Record
from streamer.slices import Batch, BatchResult, Row, Slice, sliced
from streamer.worker import Features


class Marker(Enum):
    """The entries of a script that are no records."""

    CRASH = "the process dies"
    REVOKE = "the group takes all partitions, after they were finished, and gives them back"
    LOSE = "the group has taken all partitions already, and gives them back"
    PAUSE = "nothing arrives until the wait is over"


CRASH, REVOKE, LOSE, PAUSE = Marker.CRASH, Marker.REVOKE, Marker.LOSE, Marker.PAUSE


class Crash(BaseException):
    """The process died here: no handler of the engine may catch it. A worker may raise it too."""


class ManualClock:
    """Time that passes only while a caller waits. Starts at 2026-01-01."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def time_ms(self) -> int:
        return 1_767_225_600_000 + round(self._now * 1000)

    def sleep(self, seconds: float) -> None:
        # A wait too short to change the sum would never end.
        self._now = max(self._now + seconds, math.nextafter(self._now, math.inf) if seconds > 0 else 0.0)


class FakeKafka:
    """The state that outlives a crash: a topic's log, one group's committed offsets, and the published messages."""

    def __init__(self, script: Iterable[Record | Marker]) -> None:
        self.script: deque[Record | Marker] = deque(script)
        self.log: dict[int, list[Record]] = {}
        self.committed: Positions = {}
        self.positions: Positions = {}  # the next offsets of the living process
        self.published: list[Message] = []

    def append(self, record: Record) -> None:
        self.log.setdefault(record.partition, []).append(record)

    def unread(self) -> bool:
        """Whether the living process has anything left to read."""
        return bool(self.script) or any(self.positions.get(p, 0) <= log[-1].offset for p, log in self.log.items())


class FakeSource:
    """Reads a `FakeKafka`: first the records of its log from the next offset on, then the next ones of the script."""

    def __init__(self, kafka: FakeKafka, clock: Clock) -> None:
        self._kafka = kafka
        self._clock = clock
        kafka.positions = dict(kafka.committed)
        self._rebalance: Rebalance | None = None
        self._member = True

    def subscribe(self, rebalance: Rebalance) -> None:
        self._rebalance = rebalance
        rebalance.assigned(sorted(self._kafka.log))

    def poll(self, records_max: int, timeout_s: float) -> list[Slice]:
        if records_max == 0:
            self._clock.sleep(timeout_s)
            return []
        records = self._unread(records_max)
        while len(records) < records_max and self._kafka.script:
            entry = self._kafka.script.popleft()
            if isinstance(entry, Marker):
                self._react(entry, records, timeout_s)
                break
            self._kafka.append(entry)
            records += self._unread(1)
        if not records:
            self._clock.sleep(timeout_s)
        return sliced(records)

    def group(self) -> Any:
        if not self._member:
            raise Wait("not a member")
        return "group"

    def committed(self, partitions: Sequence[int], timeout_s: float) -> Positions:
        return {p: self._kafka.committed[p] for p in partitions if p in self._kafka.committed}

    def commit(self, positions: Positions) -> None:
        self._kafka.committed |= positions

    def rewind(self, positions: Positions) -> None:
        self._kafka.positions |= positions

    def lag(self) -> dict[int, int]:
        return {p: len(log) - self._kafka.positions.get(p, 0) for p, log in self._kafka.log.items()}

    def close(self) -> None:
        if self._member and self._rebalance:
            self._rebalance.revoked(sorted(self._kafka.log))
        self._member = False

    def _react(self, marker: Marker, read: list[Record], timeout_s: float) -> None:
        """Do what the marker says; the records in `read` came before it in the same poll."""
        assert self._rebalance is not None
        if marker is PAUSE:
            self._clock.sleep(max(timeout_s, 1.0))
            return
        for record in read:  # the client drops what it fetched of revoked partitions
            self._kafka.positions[record.partition] = min(self._kafka.positions[record.partition], record.offset)
        read.clear()
        if marker is CRASH:
            raise Crash
        partitions = sorted(self._kafka.log)
        if marker is REVOKE:
            self._rebalance.revoked(partitions)
        else:
            self._rebalance.lost(partitions)
        self._kafka.positions = dict(self._kafka.committed)
        self._rebalance.assigned(partitions)

    def _unread(self, records_max: int) -> list[Record]:
        found: list[Record] = []
        for partition, log in self._kafka.log.items():
            at = self._kafka.positions.get(partition, 0)
            more = [record for record in log if record.offset >= at][: records_max - len(found)]
            if more:
                self._kafka.positions[partition] = more[-1].offset + 1
                found += more
        return found


class Fault(Enum):
    """How a commit of `FakeSink` ends."""

    NONE = "it happens"
    ABORT = "rolled back"
    UNCLEAR_DONE = "nobody says, and it happened"
    UNCLEAR_NOT_DONE = "nobody says, and it did not happen"
    CRASH_BEFORE = "the process dies before it"
    CRASH_AFTER = "the process dies after it"


class FakeSink:
    """Commits into a `FakeKafka` atomically, each commit with the next of the `faults`."""

    def __init__(self, kafka: FakeKafka, faults: Iterator[Fault] = iter(())) -> None:
        self._kafka = kafka
        self._faults = faults
        self._messages: list[Messages] = []
        self._begun: list[Messages] = []
        self._needs_recovery = False

    def write(self, messages: Sequence[Messages]) -> None:
        self._messages += messages

    def hand_over(self, deadline: Deadline) -> None:
        if self._needs_recovery:
            raise Internal("a transaction was opened after Unclear without recover()")
        self._begun += self._messages
        self._messages = []

    def begin(self, positions: Positions, deadline: Deadline) -> Commit:
        self.hand_over(deadline)
        return lambda: self._commit(positions)

    def confirm(self) -> None:
        self._begun = []

    def _commit(self, positions: Positions) -> None:
        fault = next(self._faults, Fault.NONE)
        if fault is Fault.ABORT:
            raise Aborted("a fault of the test")
        if fault is Fault.CRASH_BEFORE:
            raise Crash
        if fault is not Fault.UNCLEAR_NOT_DONE:
            self._kafka.published += [message for run in self._begun for message in run]
            self._kafka.committed |= positions
        if fault is Fault.CRASH_AFTER:
            raise Crash
        if fault is not Fault.NONE:
            self._needs_recovery = True
            raise Unclear("a fault of the test")

    def recover(self, deadline: Deadline) -> None:
        self._needs_recovery = False

    def serve(self) -> None:
        """Nothing piles up."""

    def forget(self, partitions: Sequence[int]) -> None:
        self._messages = [run for run in self._messages if run.partition not in partitions]
        self._begun = [run for run in self._begun if run.partition not in partitions]

    def close(self, deadline: Deadline) -> None:
        self._messages = []


class FakeCommitter:
    """Makes a commit `seconds` of the clock after it was begun."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._commit: Commit | None = None
        self._at = 0.0

    def start(self, commit: Commit, deadline: Deadline) -> None:
        if self._commit is not None:
            raise Internal("a commit began before the last one had ended")
        self._commit, self._at = commit, self._clock.now() + self._seconds

    def ended(self, timeout_s: float) -> bool:
        if self._commit is None:
            raise Internal("no commit has begun")
        if (left := self._at - self._clock.now()) > 0:
            self._clock.sleep(min(left, timeout_s))
        if self._at - self._clock.now() > 1e-9:
            return False
        commit, self._commit = self._commit, None
        commit()
        return True


class FakeCache:
    """A dict that never forgets."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.answers.get(key) for key in keys]

    def put_many(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        self.answers.update(answers)

    def circuit(self) -> tuple[str, int]:
        return "closed", 0

    def close(self) -> None:
        """Nothing to give back."""


class FakeFeatures:
    """A feature store that is a dict."""

    def __init__(self, features: dict[str, Features]) -> None:
        self._features = features

    def read_many(self, rows: Sequence[Row], entities: Sequence[str]) -> list[tuple[Row, Exception]]:
        for row, entity in zip(rows, entities, strict=True):
            row.give(self._features.get(entity, {}))
        return []


class FakeRunner:
    """Answers with a real `Inference`, one batch after the other, each taking `seconds(batch)` of the clock."""

    slots = 2

    def __init__(self, inference: Inference, clock: Clock, seconds: Callable[[Batch], float]) -> None:
        self._inference = inference
        self._clock = clock
        self._seconds = seconds
        self._queue: deque[tuple[Batch, float, float]] = deque()  # batch, end, duration

    def out(self) -> int:
        return len(self._queue)

    def submit(self, batch: Batch) -> None:
        if self.out() >= self.slots:
            raise Internal(f"the runner has {self.out()} batches out and takes no more")
        start = max(self._clock.now(), self._queue[-1][1] if self._queue else 0.0)
        seconds = self._seconds(batch)
        self._queue.append((batch, start + seconds, seconds))

    def finished(self, timeout_s: float) -> list[BatchResult]:
        if self._queue and timeout_s > 0:
            self._clock.sleep(max(0.0, min(timeout_s, self._queue[0][1] - self._clock.now())))
        results = []
        while self._queue and self._queue[0][1] <= self._clock.now() + 1e-9:
            batch, _, seconds = self._queue.popleft()
            results.append(BatchResult(batch, self._inference.run(batch.events(), batch.features()), seconds))
        return results

    def close(self, deadline: Deadline) -> None:
        self._queue.clear()
