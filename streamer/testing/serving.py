"""A worker, or the engine, on the fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import torch
from prometheus_client import CollectorRegistry

from schemas import DeadLetter, Event, Prediction
from streamer.cache.answers import ContentKey
from streamer.clock import Clock, Deadline
from streamer.device.failures import OnError, ignore
from streamer.device.runner import Inference
from streamer.engine.attempts import Attempts, MemoryStore, Store
from streamer.engine.batcher import Batcher, CostModel
from streamer.engine.checkpoint import CommitPolicy
from streamer.engine.loop import Engine, Limits, Parts
from streamer.features.reading import NoFeatures
from streamer.models import Model
from streamer.ports import Cache, FeatureStore, Runner
from streamer.records import BatchPolicy, Message, Record
from streamer.slices import Batch
from streamer.telemetry.health import Health
from streamer.telemetry.metrics import Metrics
from streamer.testing.fakes import (
    Crash,
    FakeCache,
    FakeCommitter,
    FakeKafka,
    FakeRunner,
    FakeSink,
    FakeSource,
    Fault,
    ManualClock,
    Marker,
)
from streamer.wire import headers
from streamer.wire.codec import Identity, JsonCodec
from streamer.worker import Worker

Entry = Event | bytes | Record | Marker
"""One line of a script."""


class Answers(msgspec.Struct, frozen=True):
    """The outcomes of a script: predictions and dead letters in the order of publishing, and how many records the
    worker's filter skipped (one that is read again after a crash counts again)."""

    predictions: list[Prediction[Any]]
    dead_letters: list[DeadLetter]
    skipped: int


class Bench(msgspec.Struct, frozen=True):
    """The surroundings of a worker under test; the defaults suit a worker's own tests."""

    cache: Cache | None = None
    features: FeatureStore | None = None
    faults: tuple[Fault, ...] = ()
    batch: BatchPolicy = BatchPolicy(items_max=8)
    limits: Limits = Limits(dead_ratio_max=1.0)
    model: Model | None = None
    seconds: Callable[[Batch], float] = lambda batch: 0.001 * len(batch)
    commit_s: float = 0.002
    attempts: Store = msgspec.field(default_factory=MemoryStore)
    on_error: OnError = ignore


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
    `Bench(on_error=show)` writes its exceptions to stderr.
    """
    bench = bench or Bench()
    model = bench.model or Model.none(worker.name)
    worker.load(model, torch.device("cpu"))
    kafka = FakeKafka(records(script, worker.source))
    registry = CollectorRegistry()
    live(worker, kafka, bench, model, Metrics(worker.name, model.version, registry))
    skipped = registry.get_sample_value(
        "streamer_messages_produced_total", {"worker": worker.name, "outcome": "skipped"}
    )
    return Answers(*published(worker, kafka.published), skipped=int(skipped or 0))


def live(worker: Worker[Any, Any], kafka: FakeKafka, bench: Bench, model: Model, metrics: Metrics) -> None:
    """Run the script to its end, with a new process after each crash."""
    clock, faults = ManualClock(), iter(bench.faults)
    while True:
        engine = build(worker, kafka, bench, clock=clock, faults=faults, metrics=metrics, model=model)
        try:
            return run_to_end(engine, kafka, clock)
        except Crash:
            continue


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
    parts = parts_of(worker, kafka, bench, clock=clock, faults=faults, metrics=metrics, model=model)
    return Engine(parts, bench.limits, CommitPolicy())


def parts_of(
    worker: Worker[Any, Any],
    kafka: FakeKafka,
    bench: Bench,
    *,
    clock: Clock,
    faults: Iterator[Fault],
    metrics: Metrics,
    model: Model,
) -> Parts:
    """The parts of an engine on fakes."""
    identity = Identity(worker.name, model.version, model.digest, "testing")
    costs = CostModel()
    runner: Runner = FakeRunner(Inference(worker, torch.device("cpu"), 1_000_000, bench.on_error), clock, bench.seconds)
    return Parts(
        worker=worker,
        source=FakeSource(kafka, clock),
        sink=FakeSink(kafka, faults),
        committer=FakeCommitter(clock, bench.commit_s),
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
        attempts=Attempts(bench.attempts),
        goal_s=bench.batch.goal_s,
    )


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
