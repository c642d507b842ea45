"""The run from start to report. The main thread owns it; everything it has started ends with it, also on an error."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from streamer import app, discovery
from streamer.bench import curve, events, load
from streamer.bench.advice import advise
from streamer.bench.broker import Broker, KafkaBroker, mock_broker
from streamer.bench.curve import Curve
from streamer.bench.events import Feed, Look, Pair
from streamer.bench.load import Load, Stand
from streamer.bench.proposals import Facts, Suggestion, Trial, base_of, judge, propose
from streamer.bench.report import Report, Setup
from streamer.bench.steps import step
from streamer.demo.children import Died
from streamer.errors import Usage
from streamer.settings import Settings
from streamer.worker import Worker

OWNER_MAX = 40_000
"""The highest speed, in events a second, that a backlog is made for."""
REPEATS_MAX = 0.95
EVENTS_MIN = 200
EVENTS_MAX = 5_000_000
MEMORY_MAX = 512 << 20
"""Bytes of events that are made before sending."""


class Options(NamedTuple):
    """The options of the command line: `rates` in events/s, `saturate` for a backlog, the number of `events` in a run
    (None: as many as `seconds` need), `embedded` for the mock broker, `file` for events of the user's own."""

    worker: str
    rates: Sequence[float]
    saturate: bool
    events: int | None
    seconds: float
    embedded: bool
    file: Path | None


def run(options: Options, settings: Settings) -> Report:
    """Measure everything that was asked for.

    Raises:
        Exit: the worker, its model, the broker or the file cannot be used; `Died`: the worker ended by itself.
    """
    folder = Path(tempfile.mkdtemp(prefix="streamer-bench-"))
    keep = False
    try:
        with ExitStack() as stack:
            report = _measured(options, settings, folder, stack)
        keep = report.logs is not None
        return report
    except Died:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _measured(options: Options, settings: Settings, folder: Path, stack: ExitStack) -> Report:
    with step(f"{options.worker}: torch and the worker are loaded"):
        worker: Worker[Any, Any] = discovery.find(options.worker)()
        broker = _broker(options, settings, worker, folder, stack)
    run_id = f"bench-{uuid.uuid4().hex[:8]}"
    feed = events.samples(worker, run_id) if options.file is None else events.lines(worker, options.file)
    with step(f"events: {feed.said}"):
        look = events.look(worker, feed)
    device = app.choose_device(settings.device)
    with step("the model alone, on batches of 1 to 1,024 events", len(curve.SIZES)) as told:
        measured = curve.measure(worker, curve.load(worker, settings, device), look.events, told)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the worker's process needs the memory that this one has freed
    cores = os.cpu_count() or 1
    stand = Stand(options.worker, broker, folder)
    loads = _loads(options, broker, look, measured)
    pairs = _made(feed, max(asked.events for asked in loads))
    runs = [load.measure(stand, asked, pairs) for asked in loads]
    facts = Facts(settings, measured, runs, look.repeats, broker.partitions, device.type == "cuda", cores)
    proposed = propose(facts)
    untried = [suggestion for suggestion in proposed if base_of(suggestion, facts) is None]
    trials = list(_trials(stand, loads, pairs, facts, proposed))
    faults = [
        f"{run.name}: {fault}"
        for run in (*runs, *(trial.run for trial in trials))
        for fault in run.counts.faults(settings.delivery)
    ]
    return Report(
        setup=Setup(
            worker=worker.name,
            delivery=settings.delivery,
            device=str(device),
            broker=broker.said,
            partitions=broker.partitions,
            cores=cores,
            events=feed.said,
            event_bytes=look.bytes_mean,
            repeats=look.repeats,
        ),
        curve=measured,
        runs=runs,
        trials=trials,
        advice=advise(facts, untried, trials),
        faults=faults,
        logs=str(folder) if faults else None,
    )


def _broker(options: Options, settings: Settings, worker: Any, folder: Path, stack: ExitStack) -> Broker:
    if options.embedded:
        return stack.enter_context(mock_broker(settings, worker, folder))
    return KafkaBroker(settings, worker)


def _loads(options: Options, broker: Broker, look: Look, measured: Curve) -> list[Load]:
    """The loads that were asked for, each with as many events as the broker and the memory hold.

    Raises:
        Usage: the user asks for more than a mock broker keeps.
    """
    loads = []
    if options.saturate:
        loads.append(Load(None, options.events or max(EVENTS_MIN, int(options.seconds * _expected(look, measured)))))
    for rate in options.rates:
        timed = options.events or max(2, int(rate * (options.seconds + load.WARM_UP_S)))
        loads.append(Load(rate, broker.partitions + timed))
    most = broker.events_max(look.bytes_mean)
    if most is not None and options.events is not None and options.events + broker.partitions > most:
        raise Usage(f"--events {options.events}: a mock broker keeps {most:,} of them; take fewer, or a real Kafka")
    room = min(most or EVENTS_MAX, int(MEMORY_MAX / look.bytes_mean))
    return [asked._replace(events=min(room, asked.events)) for asked in loads]


def _expected(look: Look, measured: Curve) -> float:
    """Events a second to make a backlog for: the speed of the model, to which repeated events cost nothing."""
    anew = 1 - min(REPEATS_MAX, look.repeats or 0.0)
    return min(OWNER_MAX, measured.best.events_per_s / anew)


def _made(feed: Feed, wanted: int) -> list[Pair]:
    """The events of all runs: each run begins with the first event, on empty topics and with an empty cache."""
    with step(f"{wanted:,} events are made", wanted) as told:
        return feed.take(wanted, told)


def _trials(
    stand: Stand, loads: Sequence[Load], pairs: Sequence[Pair], facts: Facts, proposed: Sequence[Suggestion]
) -> Iterator[Trial]:
    """Try each proposed setting with the load from which it follows."""
    for suggestion in proposed:
        before = base_of(suggestion, facts)
        if before is None:
            continue
        asked = next(one for one in loads if one.rate == suggestion.rate)
        after = load.measure(stand._replace(changed={suggestion.key: suggestion.value}), asked, pairs)
        yield judge(suggestion, before, after)
