"""The engine's surroundings in a schedule: a worker that computes nothing, its codec, runner and committer."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

from streamer.clock import Deadline
from streamer.engine.committer import GRACE_S
from streamer.errors import Internal, Reason, StreamerError, Unclear
from streamer.ports import Commit
from streamer.records import Cached, Messages, Rejected
from streamer.slices import Batch, BatchResult, Row, Rows
from streamer.testing import FakeCommitter
from streamer.worker import Worker

SOURCE, TARGET, DEAD = "events", "answers", "dead-letters"


class Doubler(Worker[Any, Any]):
    """An event is what its record holds: a number, and what is to become of it (answer, skip, dead)."""

    name = "echo"
    source = SOURCE
    target = TARGET

    def accepts(self, event: Any) -> bool:
        return bool(event.fate != b"skip")


class SharingDoubler(Doubler):
    """The same, and equal numbers are computed once."""

    def cache_key(self, event: Any, features: Any) -> tuple[int, str] | None:
        return (event.number, event.fate.decode())


class Codec:
    """Values are `number:fate`; an outcome says where its record lay."""

    def decode(self, rows: Rows) -> list[tuple[Row, Rejected]]:
        refused = []
        for row in rows:
            number, fate = (row.columns.values[row.at] or b"").split(b":")
            if fate == b"broken":
                refused.append((row, Rejected(Reason.NOT_JSON, "broken", "Reject")))
            else:
                row.columns.events[row.at] = SimpleNamespace(number=int(number), fate=fate, event_id=number.decode())
        return refused

    def encode(self, rows: Rows) -> list[Messages]:
        partition, keys, answers, dead = rows.columns.partition, [], [], []
        for row in rows:
            outcome, place = row.outcome, b"%d:%d:" % (partition, row.offset)
            if isinstance(outcome, bytes | Cached):
                keys.append(row.columns.keys[row.at])
                answers.append(place + (outcome if isinstance(outcome, bytes) else outcome.answer))
            elif isinstance(outcome, Rejected):
                dead.append(Messages(DEAD, partition, [row.columns.keys[row.at]], [place], [[("reason", b"r")]]))
        return [Messages(TARGET, partition, keys, answers), *dead] if answers else dead


class Runner:
    """Doubles numbers, batch after batch, each taking its time."""

    slots = 2

    def __init__(self, clock: Any, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._queue: deque[tuple[Batch, float]] = deque()

    def out(self) -> int:
        return len(self._queue)

    def submit(self, batch: Batch) -> None:
        if self.out() >= self.slots:
            raise Internal("no slot is free")
        start = max(self._clock.now(), self._queue[-1][1] if self._queue else 0.0)
        self._queue.append((batch, start + self._seconds))

    def finished(self, timeout_s: float) -> list[BatchResult]:
        if self._queue and timeout_s > 0:
            self._clock.sleep(max(0.0, min(timeout_s, self._queue[0][1] - self._clock.now())))
        results = []
        while self._queue and self._queue[0][1] <= self._clock.now() + 1e-9:
            batch, _ = self._queue.popleft()
            results.append(BatchResult(batch, [_answer(event) for event in batch.events()], self._seconds))
        return results

    def close(self, deadline: Deadline) -> None:
        self._queue.clear()


def _answer(event: Any) -> bytes | Rejected:
    if event.fate == b"dead":
        return Rejected(Reason.MODEL_ERROR, "dead", "ValueError")
    return b"%d" % (2 * event.number)


class Committer(FakeCommitter):
    """As `ThreadCommitter`: a call that does not come back is left behind, and may go on much later."""

    def __init__(self, process: Any, seconds: float) -> None:
        super().__init__(process.clock, seconds)
        self._process = process
        self._hangs_until: float | None = None

    def start(self, commit: Commit, deadline: Deadline) -> None:
        super().start(commit, deadline)
        self._hangs_until = self._clock.now() + deadline.left() + GRACE_S if self._process.hangs() else None

    def ended(self, timeout_s: float) -> bool:
        if self._hangs_until is None:
            return super().ended(timeout_s)
        self._clock.sleep(min(timeout_s, max(0.0, self._hangs_until - self._clock.now())))
        if self._clock.now() < self._hangs_until:
            return False
        commit, self._commit, self._hangs_until = self._commit, None, None
        assert commit is not None
        self._process.left_behind(lambda: _end(commit))
        raise Unclear("the client does not return from a commit")


def _end(commit: Commit) -> None:
    try:
        commit()
    except StreamerError:
        return  # nobody hears of it


class NoMetrics:
    """Counts nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None
