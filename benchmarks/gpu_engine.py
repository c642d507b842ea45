"""A whole engine without a broker: records from memory, a sink that counts, everything between as in `streamer run`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from prometheus_client import CollectorRegistry

from benchmarks.offline import CHECKED, Backlog, Counter
from schemas import Event
from streamer.cache.answers import ContentKey, NearCache
from streamer.clock import Deadline, SystemClock
from streamer.device.devices import Device, Launched, open_device
from streamer.device.graphs import Predict, worth_recording
from streamer.device.runner import Inference, ThreadRunner
from streamer.engine.batcher import Batcher, CostModel
from streamer.engine.checkpoint import CommitPolicy
from streamer.engine.committer import ThreadCommitter
from streamer.engine.loop import Engine, Limits, Parts
from streamer.features.reading import NoFeatures
from streamer.process.garbage import QuietCollector
from streamer.records import BatchPolicy, Message
from streamer.telemetry.health import Health
from streamer.telemetry.metrics import Metrics
from streamer.wire.codec import Identity, JsonCodec
from streamer.worker import Tensors, Worker

CUT = 0.1
"""Of a run at each end: it starts, and the last batches are not full."""
ANSWER_BYTES_MAX = 100_000
DRAIN_S = 60.0


class Watched:
    """A device, and how long it computed."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.computed_s = 0.0
        self.batches = 0

    def launch(self, predict: Predict, tensors: Tensors) -> Launched:
        return Timed(self, self._device.launch(predict, tensors))

    def record(self, predict: Predict, tensors: Tensors) -> bool:
        return self._device.record(predict, tensors)


class Timed:
    """A batch that tells the device's watch how long it took."""

    def __init__(self, watch: Watched, launched: Launched) -> None:
        self._watch, self._launched = watch, launched

    def ready(self) -> bool:
        return self._launched.ready()

    def wait(self) -> Tensors:
        outputs = self._launched.wait()
        self._watch.computed_s += self._launched.seconds()
        self._watch.batches += 1
        return outputs

    def seconds(self) -> float:
        return self._launched.seconds()


class Sight(NamedTuple):
    """A moment of a run: seconds, but for the counts."""

    at: float
    messages: int
    batches: int
    computed: float
    owner: float
    process: float


class Run(NamedTuple):
    """What a run showed between its ends: `idle` is the share of time in which no batch computed, `owner_us` and
    `others_us` the CPU time an event of the engine's own thread and of all others, the runner's first."""

    events_per_s: float
    idle: float
    batch: float
    owner_us: float
    others_us: float
    graphs: int
    first: list[Message]


def serve(
    worker: Worker[Any, Any], values: Sequence[bytes], count: int, policy: BatchPolicy, device: torch.device
) -> Run:
    """Answer `count` events with a worker that is loaded.

    Raises:
        AssertionError: not every event got an outcome.
    """
    watched, sink = Watched(open_device(device)), Counter()
    inference = Inference(worker, watched, ANSWER_BYTES_MAX)
    graphs = inference.record(worth_recording(worker, policy))
    runner, garbage = ThreadRunner(inference), QuietCollector()
    source = Backlog(worker.source, values, count)
    engine = Engine(_parts(worker, source, sink, runner, policy, garbage), Limits(), CommitPolicy())
    garbage.start()
    runner.start()
    engine.start()

    def until(share: float) -> Sight:
        while sink.messages < share * count:
            engine.step()
        return Sight(
            time.perf_counter(),
            sink.messages,
            watched.batches,
            watched.computed_s,
            time.thread_time(),
            time.process_time(),
        )

    start, end = until(CUT), until(1 - CUT)
    until(1)
    engine.drain(Deadline(SystemClock(), DRAIN_S))
    gc.enable()
    gc.unfreeze()
    assert sink.messages == count, f"{sink.messages} outcomes for {count} events"
    seconds, events = end.at - start.at, end.messages - start.messages
    owner = end.owner - start.owner
    return Run(
        events_per_s=events / seconds,
        idle=1 - (end.computed - start.computed) / seconds,
        batch=events / max(1, end.batches - start.batches),
        owner_us=owner / max(1, events) * 1e6,
        others_us=(end.process - start.process - owner) / max(1, events) * 1e6,
        graphs=graphs,
        first=sink.first[:CHECKED],
    )


def _parts(
    worker: Worker[Any, Any],
    source: Backlog,
    sink: Counter,
    runner: ThreadRunner,
    policy: BatchPolicy,
    garbage: QuietCollector,
) -> Parts:
    clock, costs = SystemClock(), CostModel()
    return Parts(
        worker=worker,
        source=source,
        sink=sink,
        committer=ThreadCommitter(clock),
        codec=JsonCodec(worker, Identity(worker.name, "0", "0", "bench"), clock, ANSWER_BYTES_MAX),
        cache=NearCache(clock, 1, 1.0),
        content_key=ContentKey(b"bench", worker.name, "0", "0"),
        features=NoFeatures(),
        batcher=Batcher(policy, costs),
        costs=costs,
        runner=runner,
        clock=clock,
        metrics=Metrics(worker.name, "0", CollectorRegistry()),
        health=Health(),
        garbage=garbage,
    )


def values_of(events: Sequence[Event]) -> list[bytes]:
    """Events as they are on a topic."""
    return [event.model_dump_json().encode() for event in events]
