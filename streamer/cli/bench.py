"""`streamer bench`: how fast a worker is here, what limits it, and which settings follow."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from streamer.cli.common import AsJson, ConfigFile, Sets, overrides, print_json
from streamer.cli.run import WorkerName
from streamer.errors import Internal, Usage
from streamer.settings import loading as configuration

SECONDS = 5.0

Rates = Annotated[
    list[float] | None,
    typer.Option("--rate", min=0.1, metavar="R", help="Send R events a second and time the answers; may be repeated."),
]
Saturate = Annotated[bool, typer.Option("--saturate", help="Work off a backlog; the default without --rate.")]
Events = Annotated[int | None, typer.Option("--events", min=10, metavar="N", help="Events of each run.")]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", min=1, metavar="S", help=f"About how long each run is; default: {SECONDS:.0f}."),
]
Delivery = Annotated[str | None, typer.Option("--delivery", metavar="GUARANTEE", help="exactly_once or at_least_once.")]
EventFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Events to send, one JSON a line, instead of the worker's samples."),
]
Embedded = Annotated[
    bool, typer.Option("--embedded", help="A small mock broker instead of a Kafka; shows no guarantee.")
]


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    worker: WorkerName
    rates: Rates = None
    saturate: Saturate = False
    events: Events = None
    seconds: Seconds = None
    delivery: Delivery = None
    file: EventFile = None
    embedded: Embedded = False
    as_json: AsJson = False
    sets: Sets = None
    config: ConfigFile = None


def bench(**given: Any) -> None:
    """Measure a worker on topics of the run's own, and suggest settings that follow from the figures.

    A fresh worker works off a backlog, or is sent events at a rate, and every event is accounted for (exit code 70
    when one is lost, repeated or out of order); before that its model is run alone, on batches of growing size.
    The topics bench.WORKER.… are made on your Kafka and deleted afterwards; the worker's own are not touched.

    Example: streamer bench lead-scoring --saturate --rate 1000 --rate 5000
    """
    asked = Asked(**given)
    if asked.events is not None and asked.seconds is not None:
        raise Usage("--events and --seconds both say how long a run is; give one of them")
    guarantee = {} if asked.delivery is None else {"delivery": asked.delivery}
    settings = configuration.load(asked.config, {**overrides(asked.sets), **guarantee})
    # Imported here: they import torch, and the other verbs need not wait for it.
    from streamer.bench import report, session

    options = session.Options(
        worker=asked.worker,
        rates=asked.rates or (),
        saturate=asked.saturate or not asked.rates,
        events=asked.events,
        seconds=asked.seconds or SECONDS,
        embedded=asked.embedded,
        file=asked.file,
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: topics must not stay
    try:
        found = session.run(options, settings)
    except KeyboardInterrupt:
        print("streamer: stopped; the topics and processes of the run are gone", file=sys.stderr, flush=True)
        os._exit(130)  # threads that still wait for a broker must not hold the user
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked.as_json:
        print_json(found.as_json())
    else:
        report.show(found)
    if found.faults:
        raise Internal(f"{'; '.join(found.faults)}. What the workers logged is in {found.logs}")


# A function may have eight arguments, and this verb has more options: typer reads them from the fields of one value.
bench.__signature__ = inspect.signature(Asked, eval_str=True)  # type: ignore[attr-defined]
