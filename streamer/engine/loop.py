"""The loop. `Engine.step` is the path of an event, top to bottom; the rest serves it.

One owner thread runs all of this without locks: consumer, producer, Redis, batcher and ledger. Only the end of a commit
waits for the broker on another thread. The owner blocks on what comes next and never spins: a busy loop would take the
interpreter from the runner thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from streamer.cache.answers import ContentKey
from streamer.clock import Clock, Deadline
from streamer.engine.attempts import Attempts, MemoryStore
from streamer.engine.batcher import Batcher, CostModel
from streamer.engine.checkpoint import Checkpoint, CheckpointParts, CommitPolicy
from streamer.engine.dead_letters import DeadLetterLimits
from streamer.engine.dispatch import Dispatch
from streamer.engine.intake import Intake, IntakeParts
from streamer.engine.ledger import Ledger
from streamer.errors import DeviceFailed, Exit
from streamer.ports import Cache, Codec, Committer, FeatureStore, Runner, Sink, Source
from streamer.process.garbage import Garbage, LeaveGarbage
from streamer.records import Positions
from streamer.slices import BatchResult, Rows, Slice
from streamer.telemetry.health import Health
from streamer.telemetry.metrics import Metrics
from streamer.telemetry.stopwatch import Stopwatch
from streamer.worker import Worker

log = structlog.get_logger(__name__)

BEAT_S = 0.1  # the longest wait with nothing to do: how late a stop signal may be seen
POLL_EVERY_S = 0.01  # while a batch runs: cache hits and free slots are served this soon
SERVE_GROUP_S = 1.0  # without room for records the group is still served this often
LAG_EVERY_S = 1.0
STAGES = (
    "poll",
    "open",
    "decode",
    "features",
    "look up",
    "batch",
    "wait for the device",
    "settle",
    "release",
    "commit",
)


class Limits(msgspec.Struct, frozen=True):
    """Bounds of records in flight and of dead letters. When more than `dead_ratio_max` of a partition's recent
    records are dead letters (`DeadLetterLimits`), or more than `dead_run_max` in a row, the worker stops instead of
    draining the topic."""

    poll_max: int = 1_000
    in_flight_max: int = 50_000
    in_flight_bytes_max: int = 64 << 20
    dead_ratio_max: float = 0.5
    dead_run_max: int = 1_000
    ahead_s: float = 2.0
    revoke_s: float = 5.0
    drain_s: float = 25.0


class Parts(msgspec.Struct, frozen=True):
    """Everything the engine drives, real or fake."""

    worker: Worker[Any, Any]
    source: Source
    sink: Sink
    committer: Committer
    codec: Codec
    cache: Cache
    content_key: ContentKey
    features: FeatureStore
    batcher: Batcher
    costs: CostModel
    runner: Runner
    clock: Clock
    metrics: Metrics
    health: Health
    attempts: Attempts = msgspec.field(default_factory=lambda: Attempts(MemoryStore()))
    goal_s: float | None = None
    garbage: Garbage = LeaveGarbage()


class Engine:
    """Moves records from the source to exactly one outcome each."""

    def __init__(self, parts: Parts, limits: Limits, policy: CommitPolicy) -> None:
        self._parts = parts
        self._limits = limits
        self._commit_timeout_s = policy.timeout_s
        self._commit_interval_s = policy.interval_s
        self._ledger = Ledger()
        self._checkpoint = Checkpoint(
            CheckpointParts(parts.source, parts.sink, parts.committer, parts.codec, parts.clock, parts.metrics),
            policy,
            self._on_committed,
        )
        self._intake = Intake(
            IntakeParts(parts.worker, parts.codec, parts.features, parts.cache, parts.content_key, parts.metrics)
        )
        self._dispatch = Dispatch(parts.batcher, parts.runner, parts.attempts, parts.clock)
        self._dead_letters = DeadLetterLimits(limits.dead_ratio_max, limits.dead_run_max)
        self._stopwatch = Stopwatch(parts.clock.now, *STAGES)
        parts.metrics.watch(self._stopwatch)
        self._stopping = False
        self._draining: Deadline | None = None
        self._served = parts.clock.now()
        self._lag_at = 0.0
        self._read_at_ms = 0
        self._cache_errors = 0

    def stop(self) -> None:
        """Ask `run` to drain and return. May be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Join the group and serve until `stop`, then finish what is in flight, commit and leave.

        Raises:
            Exit: the process cannot go on; nothing that was published is lost or repeated.
        """
        try:
            self.start()
            while not self._stopping:
                self.step()
            self.drain(Deadline(self._parts.clock, self._limits.drain_s))
        except BaseException as error:
            # Nothing half done may be committed any more, nor known deaths be forgotten as if all were answered: the
            # client calls `revoked` even while it is thrown away.
            self._draining = Deadline(self._parts.clock, 0)
            with suppress(Exit):  # of a commit that was out: this error came first
                self._forget(self._ledger.partitions())
            if not isinstance(error, DeviceFailed):
                self._parts.attempts.clear()  # it was not the batch on the device
            if isinstance(error, Exit):
                with suppress(Exit):  # of a callback, kept until the client returned: this error came first
                    self._parts.source.close()  # leave the group at once
            raise

    def start(self) -> None:
        """Join the group."""
        self._parts.source.subscribe(self)

    def step(self) -> None:
        """One turn, from records that came in to the commit that is due."""
        lap = self._stopwatch.lap
        self._stopwatch.start()
        slices = self._poll()
        lap("poll")
        waiting = [self._condemn(rows) for rows in self._ledger.open(slices)]
        lap("open")
        self._parts.attempts.reading(True)  # what dies here is not on the device
        waiting = [self._intake.decode(rows) for rows in waiting]
        lap("decode")
        waiting = self._intake.read_features(waiting)
        lap("features")
        waiting = self._intake.look_up(waiting)
        self._parts.attempts.reading(False)
        self._parts.health.beat()
        lap("look up")
        self._enqueue(waiting)
        self._dispatch.submit()
        lap("batch")
        results = self._dispatch.finished(self._patience(busy=any(map(len, waiting))))
        lap("wait for the device")
        for result in results:
            self._settle(result)
        self._dispatch.submit()
        lap("settle")
        self._release()
        lap("release")
        self._commit_if_due(self._commit_timeout_s)
        lap("commit")
        self._observe()

    def drain(self, deadline: Deadline) -> None:
        """Finish what is in flight within the deadline, commit it, leave the group, give everything back."""
        self._draining = deadline  # leaving the group revokes what is left: within the same deadline
        self._finish(deadline, self._stay)
        self._parts.health.left()
        self._parts.source.close()
        self._parts.runner.close(deadline)
        self._parts.sink.close(deadline)
        self._parts.cache.close()
        if not self._parts.runner.out():  # what hangs there when time is up is under suspicion
            self._parts.attempts.clear()

    # -- the group moves partitions: called from inside Source.poll and Source.close

    def assigned(self, partitions: Sequence[int]) -> None:
        self._parts.metrics.rebalance("assigned")
        self._parts.health.assigned()

    def revoked(self, partitions: Sequence[int]) -> None:
        """Finish what is in flight while these partitions are still ours, then let go of them."""
        self._parts.metrics.rebalance("revoked")
        self._finish(self._draining or Deadline(self._parts.clock, self._limits.revoke_s))
        if not (len(self._ledger) or len(self._checkpoint)) and self._draining is None:
            self._parts.attempts.given_up(partitions)
        self._forget(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        self._parts.metrics.rebalance("lost")
        self._forget(partitions)

    # -- the stages of a step

    def _poll(self) -> list[Slice]:
        parts = self._parts
        now = parts.clock.now()
        room = self._room()
        if room > 0:
            self._served = now
            return self._counted(parts.source.poll(room, self._idle_wait(now)))
        if now - self._served >= SERVE_GROUP_S:
            self._served = now
            parts.source.poll(0, 0)
        elif not parts.runner.out():  # only a commit can make room
            parts.clock.sleep(self._soonest(BEAT_S, self._commit_wait(now)))
        return []

    def _counted(self, slices: list[Slice]) -> list[Slice]:
        if slices:
            self._parts.metrics.consumed(sum(map(len, slices)))
            self._read_at_ms = max(slices[-1].times_ms[-1], 0) or self._parts.clock.time_ms()  # -1: it has none
        return slices

    def _condemn(self, rows: Rows) -> Rows:
        """Settle records that killed a process before; return the rest."""
        for row, outcome in self._parts.attempts.condemned(rows):
            row.settle(outcome)
        return rows.open()

    def _enqueue(self, waiting: Sequence[Rows]) -> None:
        parts = self._parts
        now = parts.clock.now()
        if parts.goal_s is not None:
            age_origin = now + parts.goal_s - parts.clock.time_ms() / 1000
            for rows in waiting:
                if rows.columns.due is not None:
                    continue  # known already: these are tried again
                due = [age_origin + time_ms / 1000 for time_ms in rows.columns.times_ms]
                # A backlog has missed its goal: it fills whole batches.
                rows.columns.due = [at if at > now else None for at in due]
        self._dispatch.add(waiting, now)

    def _settle(self, result: BatchResult) -> None:
        self._parts.costs.observe(len(result.batch), result.batch.cost, result.seconds)
        self._parts.metrics.batch(result, result.batch.waited_s)
        for rows, outcomes in result.parts():
            rows.settle(outcomes)
        self._enqueue(self._intake.share(result))

    def _release(self) -> None:
        if not self._checkpoint.clear:
            return
        released = self._ledger.release()
        for rows in released:
            self._dead_letters.observe(rows)
        self._checkpoint.add(released)

    def _commit_if_due(self, timeout_s: float) -> None:
        self._go_on_from(self._checkpoint.advance(self._worth_gathering(), timeout_s))

    def _go_on_from(self, moved: Positions) -> None:
        """Let go of partitions whose offsets another process has moved, and read on from there."""
        if moved:
            self._forget(list(moved))
            self._parts.source.rewind(moved)

    # -- waiting, room, and letting go

    def _room(self) -> int:
        """How many records may be read now: bounded in flight, and not far ahead of the runner."""
        limits = self._limits
        in_flight = len(self._ledger) + len(self._checkpoint)
        if self._ledger.bytes + self._checkpoint.bytes >= limits.in_flight_bytes_max or not self._checkpoint.clear:
            return 0
        return max(0, min(limits.poll_max, limits.in_flight_max - in_flight, self._ahead()))

    def _ahead(self) -> int:
        """How many more events may wait for the runner: about `ahead_s` of its work, so that a stop or a revoke finds
        little to finish. Before the speed is known: a few polls."""
        per_item_s = self._parts.costs.per_item_s
        most = self._limits.ahead_s / per_item_s if per_item_s else 0.0
        return int(max(most, 2 * self._limits.poll_max)) - len(self._dispatch)

    def _idle_wait(self, now: float) -> float:
        """How long the source may wait for a record: not at all while the runner has something."""
        if self._parts.runner.out():
            return 0.0
        return self._soonest(BEAT_S, self._parts.batcher.due_in(now, 0), self._commit_wait(now))

    def _patience(self, busy: bool) -> float:
        """How long the runner may be waited for: not at all while records keep coming."""
        if busy and self._room() > 0:
            return 0.0
        now = self._parts.clock.now()
        runner = self._parts.runner
        # With every slot taken only a finished batch helps: a batch that is due would make this a busy loop.
        due = self._parts.batcher.due_in(now, runner.out()) if runner.out() < runner.slots else None
        return self._soonest(POLL_EVERY_S, due, self._commit_wait(now))

    def _soonest(self, most: float, *waits: float | None) -> float:
        return max(0.0, min(most, *(wait for wait in waits if wait is not None), most))

    def _commit_wait(self, now: float) -> float | None:
        return self._checkpoint.due_in(now, self._worth_gathering())

    def _worth_gathering(self) -> int:
        """How many outcomes make it worth to let a commit wait for more. When events wait longer for the model than
        that would take, any number does: frequent commits would only slow the model down."""
        behind = self._parts.batcher.waited_s(self._parts.clock.now()) > self._commit_interval_s
        return 1 if behind else self._limits.poll_max

    def _stay(self) -> None:
        """Serve the group: after a rebalance (the other replicas stop too) every commit would else be refused."""
        if self._parts.clock.now() - self._served >= BEAT_S:
            self._served = self._parts.clock.now()
            self._parts.source.poll(0, 0)

    def _finish(self, deadline: Deadline, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Compute, release and commit what is in flight; give up what the deadline does not allow."""
        parts = self._parts
        parts.batcher.drain()
        while not deadline.passed() and (len(self._ledger) or len(self._checkpoint) or not self._checkpoint.clear):
            meanwhile()
            self._dispatch.submit()
            for result in self._dispatch.finished(min(BEAT_S, deadline.left())):
                self._settle(result)
            self._release()
            if not (parts.runner.out() or len(self._dispatch)):
                wait_s = self._commit_wait(parts.clock.now()) or 0.0
                parts.clock.sleep(min(max(0.0, wait_s), deadline.left()))
                self._go_on_from(self._checkpoint.commit(deadline))
            elif not deadline.passed():  # slow batches, or suspects one by one, may take all the time
                self._commit_if_due(min(self._commit_timeout_s, deadline.left()))
            parts.health.beat()
        parts.batcher.refill()
        if left := len(self._ledger) + len(self._checkpoint):
            log.warning("time is up; these records are left to the next owner", records=left)

    def _forget(self, partitions: Sequence[int]) -> None:
        self._ledger.forget(partitions)
        self._checkpoint.forget(partitions)
        self._dead_letters.forget(partitions)
        self._intake.forget()

    def _on_committed(self, durable: Sequence[Rows], seconds: float) -> None:
        parts = self._parts
        self._intake.remember(durable)
        parts.attempts.passed(durable)
        parts.metrics.committed(durable, parts.clock.time_ms(), seconds)

    def _observe(self) -> None:
        parts = self._parts
        parts.health.beat()
        now = parts.clock.now()
        if now - self._lag_at >= LAG_EVERY_S:
            self._lag_at = now
            in_flight = len(self._ledger) + len(self._checkpoint)
            parts.sink.serve()
            parts.garbage.collect(now, in_flight)
            parts.metrics.depth(len(self._dispatch), in_flight)
            state, errors = parts.cache.circuit()
            parts.metrics.circuit(state)
            parts.metrics.cache(0, 0, 0, errors - self._cache_errors)
            self._cache_errors = errors
            lag = parts.source.lag()
            behind_s = (parts.clock.time_ms() - self._read_at_ms) / 1000 if any(lag.values()) else 0.0
            parts.metrics.lag(lag, behind_s)
