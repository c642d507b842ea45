"""The loop. `Engine.step` is the path of an event, top to bottom; the rest serves it.

One owner thread runs all of this: consumer, producer, Redis, batcher, ledger and commits, without locks. It
blocks on what comes next and never spins: a busy loop would take the interpreter away from the runner thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from streamer import dead_letters
from streamer.batcher import Batcher, CostModel
from streamer.cache import ContentKey
from streamer.checkpoint import Checkpoint, CommitPolicy
from streamer.clock import Clock, Deadline
from streamer.dead_letters import DeadLetterLimits
from streamer.errors import Exit
from streamer.health import Health
from streamer.ledger import Ledger
from streamer.metrics import Metrics
from streamer.ports import Cache, Codec, FeatureStore, Runner, Sink, Source
from streamer.records import BatchResult, Item, Predicted, Rejected, Skipped
from streamer.runner import rejection
from streamer.sharing import Sharing
from streamer.worker import Worker

log = structlog.get_logger(__name__)

BEAT_S = 0.1  # the longest wait with nothing to do: how late a stop signal may be seen
POLL_EVERY_S = 0.01  # while a batch runs: cache hits and free slots are served this soon
SERVE_GROUP_S = 1.0  # without room for records the group is still served this often
LAG_EVERY_S = 1.0


class Limits(msgspec.Struct, frozen=True):
    """Bounds of what is in flight, and of dead letters: more than `dead_ratio_max` of a partition's last
    `DEAD_WINDOW` records, or `dead_run_max` in a row, stop the worker instead of draining the topic."""

    poll_max: int = 1_000
    in_flight_max: int = 20_000
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
    goal_s: float | None = None


class Engine:
    """Moves records from the source to exactly one outcome each."""

    def __init__(self, parts: Parts, limits: Limits, policy: CommitPolicy) -> None:
        self._parts = parts
        self._limits = limits
        self._commit_timeout_s = policy.timeout_s
        self._ledger = Ledger()
        self._checkpoint = Checkpoint(
            parts.source, parts.sink, parts.codec, parts.clock, policy, parts.metrics, self._on_committed
        )
        self._sharing = Sharing()
        self._dead_letters = DeadLetterLimits(limits.dead_ratio_max, limits.dead_run_max)
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
            # Nothing half done may be committed any more: the client calls `revoked` even while it is thrown away.
            self._forget(self._ledger.partitions())
            if isinstance(error, Exit):
                self._parts.source.close()  # leave the group at once
            raise

    def start(self) -> None:
        """Join the group."""
        self._parts.source.subscribe(self)

    def step(self) -> None:
        """One turn: what has come in, through to what is due to be committed."""
        items = self._ledger.open(self._poll())
        items = self._decode(items)
        items = self._read_features(items)
        items = self._look_up(items)
        self._enqueue(items)
        self._submit()
        for result in self._parts.runner.finished(self._patience(busy=bool(items))):
            self._settle(result)
        self._submit()
        self._release()
        self._commit_if_due()
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

    # -- the group moves partitions: called from inside Source.poll and Source.close

    def assigned(self, partitions: Sequence[int]) -> None:
        self._parts.metrics.rebalance("assigned")
        self._parts.health.assigned()

    def revoked(self, partitions: Sequence[int]) -> None:
        """Finish what is in flight while these partitions are still ours, then let go of them."""
        self._parts.metrics.rebalance("revoked")
        self._finish(self._draining or Deadline(self._parts.clock, self._limits.revoke_s))
        self._forget(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        self._parts.metrics.rebalance("lost")
        self._forget(partitions)

    # -- the stages of a step

    def _poll(self) -> list[Any]:
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

    def _counted(self, records: list[Any]) -> list[Any]:
        if records:
            self._parts.metrics.consumed(len(records))
            self._read_at_ms = max(records[-1].timestamp_ms, 0) or self._parts.clock.time_ms()  # -1: it has none
        return records

    def _decode(self, items: list[Item]) -> list[Item]:
        worker = self._parts.worker
        decoded = []
        for item, rejected in zip(items, self._parts.codec.decode_many(items), strict=True):
            if rejected is not None:
                self._ledger.settle(item, rejected)
                continue
            try:
                accepted = worker.accepts(item.event)
                item.cost = int(worker.cost(item.event)) if accepted else 0
            except Exception as error:  # as in the model: one bad event must never take the worker down
                self._ledger.settle(item, rejection(error))
                continue
            if accepted:
                decoded.append(item)
            else:
                self._ledger.settle(item, Skipped())
        return decoded

    def _read_features(self, items: list[Item]) -> list[Item]:
        worker = self._parts.worker
        asked, asking = [], []
        for item in items:
            try:
                key = worker.feature_key(item.event)
            except Exception as error:
                self._ledger.settle(item, rejection(error))
                continue
            asked.append(item)
            if key is not None:
                asking.append((item, key))
        if asking:
            found = self._parts.features.read_many([key for _, key in asking])
            for (item, _), features in zip(asking, found, strict=True):
                item.features = features
        return asked

    def _look_up(self, items: list[Item]) -> list[Item]:
        """Settle what the cache knows; let equal items wait for the one that is computed; return the rest."""
        parts = self._parts
        keyed: list[Item] = []
        rest: list[Item] = []
        for item in items:
            try:
                features = parts.worker.cache_key(item.event, item.features)
                item.cache_key = None if features is None else parts.content_key.of(features)
            except Exception as error:  # also a number that is too large for the key's encoding
                self._ledger.settle(item, rejection(error))
                continue
            (rest if item.cache_key is None else keyed).append(item)
        asked = [item for item in keyed if not self._follow(item)]
        hits = 0
        for item, answer in zip(asked, parts.cache.get_many([item.cache_key or b"" for item in asked]), strict=True):
            if answer is not None:
                hits += 1
                self._ledger.settle(item, Predicted(answer, cached=True))
            elif not self._follow(item):  # an equal item of this very poll may have come first
                self._sharing.lead(item)
                rest.append(item)
        if keyed:
            parts.metrics.cache(hits, len(asked) - hits, len(keyed) - len(asked), 0)
        return rest

    def _follow(self, item: Item) -> bool:
        found = self._sharing.follow(item)
        if isinstance(found, Predicted):
            self._ledger.settle(item, found)
        return bool(found)

    def _enqueue(self, items: Sequence[Item]) -> None:
        parts = self._parts
        now = parts.clock.now()
        if parts.goal_s is not None:
            age_origin = now + parts.goal_s - parts.clock.time_ms() / 1000
            for item in items:
                due = age_origin + item.record.timestamp_ms / 1000
                item.due = due if due > now else None  # a backlog has missed its goal: it fills whole batches
        parts.batcher.add(items, now)

    def _submit(self) -> None:
        batcher, runner = self._parts.batcher, self._parts.runner
        while (out := runner.out()) < runner.slots:
            now = self._parts.clock.now()
            reason = batcher.ready(now, out)
            if reason is None:
                return
            batch = batcher.take(now, reason)
            wanted = [item for item in batch.items if not item.lane.gone or item.followers]
            if wanted:
                runner.submit(msgspec.structs.replace(batch, items=wanted))

    def _settle(self, result: BatchResult) -> None:
        items = result.batch.items
        self._parts.costs.observe(len(items), result.batch.cost, result.seconds)
        self._parts.metrics.batch(result, result.batch.waited_s)
        for item, outcome in zip(items, result.outcomes, strict=True):
            self._ledger.settle(item, outcome)
            followers = self._sharing.answered(item, outcome)
            if isinstance(outcome, Rejected):
                self._enqueue(followers)
                continue
            for follower in followers:
                self._ledger.settle(follower, Predicted(outcome.answer, cached=True))

    def _release(self) -> None:
        if not self._checkpoint.clear:
            return
        items = self._ledger.release()
        self._dead_letters.observe(items)
        dead_letters.log_reasons(items)
        self._checkpoint.add(items, self._ledger.positions())

    def _commit_if_due(self) -> None:
        wait_s = self._commit_wait(self._parts.clock.now())
        if wait_s is not None and wait_s <= 0:
            self._commit(Deadline(self._parts.clock, self._commit_timeout_s))

    def _commit(self, deadline: Deadline) -> None:
        moved = self._checkpoint.commit(deadline)
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
        """How many more events may wait for the runner: about `ahead_s` of its work, so that a stop or a revoke
        finds little to finish; before its speed is known, a few polls' worth."""
        per_item_s = self._parts.costs.per_item_s
        most = self._limits.ahead_s / per_item_s if per_item_s else 0.0
        return int(max(most, 2 * self._limits.poll_max)) - len(self._parts.batcher)

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
        return self._checkpoint.due_in(now, self._limits.poll_max)

    def _stay(self) -> None:
        """Serve the group, so that a rebalance (the other replicas stop too) does not refuse every commit."""
        if self._parts.clock.now() - self._served >= BEAT_S:
            self._served = self._parts.clock.now()
            self._parts.source.poll(0, 0)

    def _finish(self, deadline: Deadline, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Compute, release and commit what is in flight; give up what the deadline does not allow."""
        parts = self._parts
        parts.batcher.drain()
        while not deadline.passed() and (len(self._ledger) or len(self._checkpoint) or not self._checkpoint.clear):
            meanwhile()
            self._submit()
            for result in parts.runner.finished(min(BEAT_S, deadline.left())):
                self._settle(result)
            self._release()
            if not (parts.runner.out() or len(parts.batcher)):
                wait_s = self._commit_wait(parts.clock.now()) or 0.0
                parts.clock.sleep(min(max(0.0, wait_s), deadline.left()))
                self._commit(deadline)
            parts.health.beat()
        parts.batcher.refill()
        if left := len(self._ledger) + len(self._checkpoint):
            log.warning("time is up; these records are left to the next owner", records=left)

    def _forget(self, partitions: Sequence[int]) -> None:
        self._ledger.forget(partitions)
        self._checkpoint.forget(partitions)
        self._dead_letters.forget(partitions)
        self._sharing.forget()

    def _on_committed(self, items: Sequence[Item], seconds: float) -> None:
        parts = self._parts
        answers = []
        for item in items:
            outcome = item.outcome
            if item.cache_key is not None and isinstance(outcome, Predicted) and not outcome.cached:
                answers.append((item.cache_key, outcome.answer))
                self._sharing.end(item)
        if answers:
            parts.cache.put_many(answers)
        parts.metrics.committed(items, parts.clock.time_ms(), seconds)

    def _observe(self) -> None:
        parts = self._parts
        parts.health.beat()
        now = parts.clock.now()
        if now - self._lag_at >= LAG_EVERY_S:
            self._lag_at = now
            parts.metrics.depth(len(parts.batcher), len(self._ledger) + len(self._checkpoint))
            state, errors = parts.cache.circuit()
            parts.metrics.circuit(state)
            parts.metrics.cache(0, 0, 0, errors - self._cache_errors)
            self._cache_errors = errors
            lag = parts.source.lag()
            behind_s = (parts.clock.time_ms() - self._read_at_ms) / 1000 if any(lag.values()) else 0.0
            parts.metrics.lag(lag, behind_s)
