"""`streamer run` and `streamer version`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated

import confluent_kafka
import typer

from streamer.cli.common import AsJson, ConfigFile, Sets, print_json, settings

WorkerName = Annotated[
    str, typer.Argument(metavar="WORKER", help="An installed worker, module:Class, or path/to/file.py:Class.")
]


def run(worker: WorkerName, sets: Sets = None, config: ConfigFile = None) -> None:
    """Serve a worker until SIGTERM or Ctrl-C; it then drains and commits what is in flight.

    Example: streamer run lead-scoring --set kafka.bootstrap_servers=localhost:9092
    """
    chosen = settings(config, sets)
    # Imported here: they import torch, and the other verbs need not wait for it.
    from streamer import app, discovery
    from streamer.telemetry import log

    log.configure(chosen.log.level, chosen.log.format)
    app.run(chosen, discovery.find(worker)())


def version(as_json: AsJson = False) -> None:
    """Say which versions work together here.

    Example: streamer version --json
    """
    found = {
        "streamer": metadata.version("streamer"),
        "python": platform.python_version(),
        "confluent-kafka": metadata.version("confluent-kafka"),
        "librdkafka": confluent_kafka.libversion()[0],
        "torch": metadata.version("torch"),
        "redis": metadata.version("redis"),
        "pydantic": metadata.version("pydantic"),
    }
    if as_json:
        print_json(found)
    else:
        print("\n".join(f"{name} {number}" for name, number in found.items()))
