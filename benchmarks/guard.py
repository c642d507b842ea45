"""What an event costs in the engine itself, as a multiple of the bare work on it: `python -m benchmarks.guard`.

Broker, client library and threads are left out, so that what is measured is what a change of this code changes. Both
sides are timed in one process, in turns, by CPU time, and the fastest turn of each counts: what else the machine does
can only slow a turn. CI fails when the multiple has grown by more than a quarter over the committed one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from random import Random

import msgspec
import torch
from prometheus_client import CollectorRegistry

from benchmarks import report, work
from benchmarks.offline import Backlog, Counter
from benchmarks.workers import Tabular
from streamer.clock import Deadline
from streamer.engine.checkpoint import CommitPolicy
from streamer.engine.loop import Engine, Limits
from streamer.models import Model
from streamer.process.garbage import QuietCollector
from streamer.records import BatchPolicy
from streamer.telemetry.metrics import Metrics
from streamer.testing import Bench, FakeKafka, ManualClock
from streamer.testing.serving import parts_of

EVENTS = 40_000
TURNS = 7
GROWN_MAX = 1.25
TRIES = 4
"""A machine that others use, too, shows up to a fifth more at times; an engine that is slower shows it each time."""
BASELINE = report.RESULTS / "guard.json"


def main() -> None:
    """Measure, and compare with the committed figure."""
    options = _options()
    torch.set_num_threads(1)
    QuietCollector().start()
    values = tabular_values(EVENTS)
    if options.update:
        figure = report.shown(
            "CPU of the engine per event, against the bare work", multiple_of(values), "python -m benchmarks.guard"
        )
        report.write([figure], BASELINE)
        return
    committed = float(json.loads(BASELINE.read_text())[0]["ours"])
    print(f"committed: {committed:.3f} times; at most {committed * GROWN_MAX:.3f} passes")
    if all(multiple_of(values) > committed * GROWN_MAX for _ in range(TRIES)):
        sys.exit("guard: the engine has become slower; profile it, or commit the new figure with its reason (--update)")


def multiple_of(values: Sequence[bytes]) -> float:
    """CPU of the engine in that of the bare work; says so."""
    engine_us, work_us = measure(values)
    print(f"engine {engine_us:.2f} us, bare work {work_us:.2f} us of CPU an event: {engine_us / work_us:.3f} times")
    return engine_us / work_us


def measure(values: Sequence[bytes]) -> tuple[float, float]:
    """CPU microseconds an event of the engine and of the bare work: the fastest of some turns each."""
    todo, worker = work.make("tabular"), Tabular()
    worker.load(Model.none(worker.name), torch.device("cpu"))
    engine, bare = [], []
    for _ in range(TURNS):
        engine.append(timed(lambda: serve(worker, values)))
        bare.append(timed(lambda: [todo.run(values[at : at + 1024]) for at in range(0, len(values), 1024)]))
    return min(engine) / len(values) * 1e6, min(bare) / len(values) * 1e6


def serve(worker: Tabular, values: Sequence[bytes]) -> None:
    """All events through a whole engine; the runner's work is done on this thread.

    Raises:
        AssertionError: not every event got an outcome.
    """
    clock, sink = ManualClock(), Counter()
    metrics = Metrics(worker.name, "0", CollectorRegistry())
    model = Model.none(worker.name)
    bench = Bench(batch=BatchPolicy(), limits=Limits(), seconds=lambda batch: 0.001)
    parts = parts_of(worker, FakeKafka([]), bench, clock=clock, faults=iter(()), metrics=metrics, model=model)
    parts = msgspec.structs.replace(parts, source=Backlog(worker.source, values, len(values)), sink=sink)
    engine = Engine(parts, bench.limits, CommitPolicy())
    engine.start()
    while sink.messages < len(values):
        engine.step()
    engine.drain(Deadline(clock, 10))
    assert sink.messages == len(values)


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    call()
    return time.process_time() - started


def tabular_values(count: int) -> list[bytes]:
    """Events of the tabular work."""
    random = Random(work.SEED)
    return [
        msgspec.json.encode(
            {
                "event_id": f"guard-{number}",
                "occurred_at": "2026-01-01T10:00:00Z",
                "features": [round(random.gauss(0, 1), 6) for _ in range(work.FEATURES)],
            }
        )
        for number in range(count)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the committed figure anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
