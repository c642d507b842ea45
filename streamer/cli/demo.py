"""`streamer demo`: a first look, with nothing else installed."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import msgspec
import typer

from streamer.cli.common import AsJson, print_json
from streamer.errors import Exit

Seconds = Annotated[float | None, typer.Option("--seconds", min=1, metavar="N", help="End by itself after N seconds.")]
Rate = Annotated[float, typer.Option("--rate", min=0.1, metavar="R", help="Events a second, of all workers together.")]
Bootstrap = Annotated[
    str | None, typer.Option("--bootstrap", metavar="HOST:PORT", help="A Kafka of yours instead of the mock broker.")
]
RedisUrl = Annotated[str | None, typer.Option("--redis", metavar="URL", help="A Redis of yours for the cache.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where the models run.")]


def demo(
    seconds: Seconds = None,
    rate: Rate = 200.0,
    bootstrap: Bootstrap = None,
    redis: RedisUrl = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer a stream of invented events on this machine and account for every one.

    It starts a broker, a cache and every installed worker except those with windows; it needs nothing else. Some
    events are broken on purpose. Ctrl-C stops and sums up; a second Ctrl-C ends at once.

    Example: streamer demo --seconds 30 --rate 500
    """
    began = time.monotonic()
    from rich.console import Console

    from streamer.demo import session
    from streamer.demo.view import LiveView, PlainView, View

    console = Console()
    view: View = (
        LiveView(console) if console.is_terminal and not as_json else PlainView(sys.stderr if as_json else sys.stdout)
    )
    try:
        summary = session.run(session.Options(seconds, rate, bootstrap, redis, device), view, began)
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)  # the processes are gone; threads that still wait for a broker must not hold the user
    if as_json:
        print_json(msgspec.to_builtins(summary))
    if not summary.accounted:
        raise Exit(
            f"not every event has its outcome; the logs of the workers are in {summary.logs}. A mock broker drops "
            "records that a slow machine does not read in time: try a lower --rate, or a real Kafka with --bootstrap"
        )
