"""Try a worker, or the engine, without a broker, a GPU or a wait.

    answers = serve(MyWorker(), [event, CRASH, event])
    assert answers.predictions[0].answer.probability > 0.5

Everything of the engine is real but the network and the clock. The script of what arrives may hold events,
raw bytes, whole records and the markers CRASH (the process dies; a new one starts from the committed
positions), REVOKE and LOSE (the group takes the partitions away and gives them back) and PAUSE (nothing
arrives for a while).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec
import torch
from prometheus_client import CollectorRegistry

from schemas import DeadLetter, Event, Prediction
from streamer import headers
from streamer.batcher import Batcher, BatchPolicy, CostModel
from streamer.cache import ContentKey
from streamer.checkpoint import CommitPolicy
from streamer.clock import Clock, Deadline
from streamer.codec import Identity, JsonCodec
from streamer.engine import Engine, Limits, Parts
from streamer.errors import Aborted, Internal, Unclear, Wait
from streamer.features import NoFeatures
from streamer.health import Health
from streamer.metrics import Metrics
from streamer.models import Model
from streamer.ports import Cache, FeatureStore, Rebalance, Runner
from streamer.records import Batch, BatchResult, Message, Positions, Record
from streamer.runner import Inference
from streamer.worker import Features, Worker


class Marker(Enum):
    """What else than a record a script may hold."""

    CRASH = "the process dies"
    REVOKE = "the group takes all partitions, after they were finished, and gives them back"
    LOSE = "the group has taken all partitions already, and gives them back"
    PAUSE = "nothing arrives until the wait is over"


CRASH, REVOKE, LOSE, PAUSE = Marker.CRASH, Marker.REVOKE, Marker.LOSE, Marker.PAUSE

Entry = Event | bytes | Record | Marker


class Crash(Exception):
    """The process died here."""


class ManualClock:
    """Time that passes only when somebody waits. Starts at 2026-01-01."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def time_ms(self) -> int:
        return 1_767_225_600_000 + round(self._now * 1000)

    def sleep(self, seconds: float) -> None:
        # A wait too short for the sum to show would be waited for ever.
        self._now = max(self._now + seconds, math.nextafter(self._now, math.inf) if seconds > 0 else 0.0)


class FakeKafka:
    """A topic's log, one group's committed positions, and what was published: what outlives a crash."""

    def __init__(self, script: Iterable[Record | Marker]) -> None:
        self.script: deque[Record | Marker] = deque(script)
        self.log: dict[int, list[Record]] = {}
        self.committed: Positions = {}
        self.positions: Positions = {}  # of the process that lives now
        self.published: list[Message] = []

    def append(self, record: Record) -> None:
        self.log.setdefault(record.partition, []).append(record)

    def unread(self) -> bool:
        """Whether the living process has anything left to read."""
        return bool(self.script) or any(self.positions.get(p, 0) <= log[-1].offset for p, log in self.log.items())


class FakeSource:
    """Reads a `FakeKafka`: what its log holds beyond the position, then what the script brings next."""

    def __init__(self, kafka: FakeKafka, clock: Clock) -> None:
        self._kafka = kafka
        self._clock = clock
        kafka.positions = dict(kafka.committed)
        self._rebalance: Rebalance | None = None
        self._member = True

    def subscribe(self, rebalance: Rebalance) -> None:
        self._rebalance = rebalance
        rebalance.assigned(sorted(self._kafka.log))

    def poll(self, records_max: int, timeout_s: float) -> list[Record]:
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
        return records

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
        """Do what the marker says; what was read in the same poll was read before it."""
        assert self._rebalance is not None
        if marker is PAUSE:
            self._clock.sleep(max(timeout_s, 1.0))
            return
        for record in read:  # the client throws away what it had fetched for partitions that go
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
    """Commits into a `FakeKafka` whole or not at all, with the faults that are due."""

    def __init__(self, kafka: FakeKafka, faults: Iterator[Fault] = iter(())) -> None:
        self._kafka = kafka
        self._faults = faults
        self._messages: list[Message] = []
        self._needs_recovery = False

    def write(self, messages: Sequence[Message]) -> None:
        self._messages += messages

    def commit(self, positions: Positions, deadline: Deadline) -> None:
        if self._needs_recovery:
            raise Internal("commit() after Unclear without recover()")
        fault = next(self._faults, Fault.NONE)
        if fault is Fault.ABORT:
            raise Aborted("a fault of the test")
        if fault is Fault.CRASH_BEFORE:
            raise Crash
        if fault is not Fault.UNCLEAR_NOT_DONE:
            self._kafka.published += self._messages
            self._kafka.committed |= positions
        if fault is Fault.CRASH_AFTER:
            raise Crash
        if fault is not Fault.NONE:
            self._needs_recovery = True
            raise Unclear("a fault of the test")
        self._messages = []

    def recover(self, deadline: Deadline) -> None:
        self._needs_recovery = False

    def forget(self, partitions: Sequence[int]) -> None:
        self._messages = [message for message in self._messages if message.partition not in partitions]

    def close(self, deadline: Deadline) -> None:
        self._messages = []


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

    def read_many(self, keys: Sequence[str]) -> list[Features]:
        return [self._features.get(key, {}) for key in keys]


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
            results.append(BatchResult(batch, self._inference.run(batch.items), seconds))
        return results

    def close(self, deadline: Deadline) -> None:
        self._queue.clear()


class Answers(msgspec.Struct, frozen=True):
    """What came of a script: predictions and dead letters in the order they were published, and the records
    that the worker's filter skipped (one that is read again after a crash counts again)."""

    predictions: list[Prediction[Any]]
    dead_letters: list[DeadLetter]
    skipped: int


class Bench(msgspec.Struct, frozen=True):
    """What surrounds a worker under test; the defaults suit a worker's own tests."""

    cache: Cache | None = None
    features: FeatureStore | None = None
    faults: tuple[Fault, ...] = ()
    batch: BatchPolicy = BatchPolicy(items_max=8)
    limits: Limits = Limits(dead_ratio_max=1.0)
    model: Model | None = None
    seconds: Callable[[Batch], float] = lambda batch: 0.001 * len(batch.items)


def records(entries: Iterable[Entry], topic: str, partitions: int = 1) -> list[Record | Marker]:
    """Turn a script into records: event n goes to partition n modulo `partitions`, one event a millisecond."""
    made: list[Record | Marker] = []
    offsets = dict.fromkeys(range(partitions), 0)
    at_ms = ManualClock().time_ms()
    for entry in entries:
        if isinstance(entry, Marker | Record):
            made.append(entry)
            continue
        partition = sum(offsets.values()) % partitions
        key, value = (
            (entry.key.encode(), entry.model_dump_json().encode()) if isinstance(entry, Event) else (b"k", entry)
        )
        made.append(Record(topic, partition, offsets[partition], key, value, None, at_ms + sum(offsets.values())))
        offsets[partition] += 1
    return made


def serve(worker: Worker[Any, Any], script: Iterable[Entry], bench: Bench | None = None) -> Answers:
    """Serve a script to its end, through every crash, and return what was published.

    The worker is loaded on the CPU, from `bench.model` or without files.
    """
    bench = bench or Bench()
    model = bench.model or Model.none(worker.name)
    worker.load(model, torch.device("cpu"))
    kafka = FakeKafka(records(script, worker.source))
    registry = CollectorRegistry()
    metrics = Metrics(worker.name, model.version, registry)
    faults = iter(bench.faults)
    clock = ManualClock()
    while True:
        engine = build(worker, kafka, bench, clock=clock, faults=faults, metrics=metrics, model=model)
        try:
            run_to_end(engine, kafka, clock)
            break
        except Crash:
            continue
    skipped = registry.get_sample_value(
        "streamer_messages_produced_total", {"worker": worker.name, "outcome": "skipped"}
    )
    return Answers(*published(worker, kafka.published), skipped=int(skipped or 0))


def build(
    worker: Worker[Any, Any],
    kafka: FakeKafka,
    bench: Bench,
    *,
    clock: Clock,
    faults: Iterator[Fault],
    metrics: Metrics,
    model: Model,
) -> Engine:
    """An engine on fakes: one life of the process."""
    identity = Identity(worker.name, model.version, model.digest, "testing")
    costs = CostModel()
    runner: Runner = FakeRunner(Inference(worker, torch.device("cpu"), 1_000_000), clock, bench.seconds)
    parts = Parts(
        worker=worker,
        source=FakeSource(kafka, clock),
        sink=FakeSink(kafka, faults),
        codec=JsonCodec(worker, identity, clock, 1_000_000),
        cache=bench.cache or FakeCache(),
        content_key=ContentKey(b"testing", worker.name, model.digest, worker.answer.__name__),
        features=bench.features or NoFeatures(),
        batcher=Batcher(bench.batch, costs),
        costs=costs,
        runner=runner,
        clock=clock,
        metrics=metrics,
        health=Health(),
        goal_s=bench.batch.goal_s,
    )
    return Engine(parts, bench.limits, CommitPolicy())


def run_to_end(engine: Engine, kafka: FakeKafka, clock: Clock) -> None:
    """Step until the script is over, then drain.

    Raises:
        Crash: where the script says so.
    """
    engine.start()
    while kafka.unread():
        engine.step()
    engine.drain(Deadline(clock, 3600.0))


def published(worker: Worker[Any, Any], messages: Sequence[Message]) -> tuple[list[Prediction[Any]], list[DeadLetter]]:
    """Read messages as a consumer of both topics would."""
    envelope = Prediction[worker.answer]  # type: ignore[name-defined]
    predictions, dead = [], []
    for message in messages:
        if message.topic == worker.target:
            predictions.append(envelope.model_validate_json(message.value or b""))
        else:
            dead.append(headers.dead_letter(message.headers))
    return predictions, dead
