"""The `streamer` command: a file for each group of verbs; this one puts them together.

run       one replica of a worker, until it is told to stop; the version
check     what is wrong before a start, and the cure
topics    which topics workers need, and making them
produce   a file of rows becomes events on a topic
tail      a topic as a reader of committed records sees it
lag       how far a worker is behind
replay    dead letters go back to their topic
backfill  a range of a topic is answered once more
windows   the windows of a worker, in a process of their own
days      days that are over become events
features  features made again from events
schema    what is on each topic, as JSON Schema
models    signs a version
bench     how fast a worker is here, and which settings follow
demo      a first look
common    options, settings and tables that the verbs share
view      how a record is shown: without personal data unless that is asked for
"""

from __future__ import annotations

import sys

import typer

from streamer.cli import (
    backfill,
    bench,
    check,
    days,
    demo,
    features,
    lag,
    models,
    produce,
    replay,
    run,
    schema,
    tail,
    topics,
    windows,
)
from streamer.errors import Exit

app = typer.Typer(
    name="streamer",
    help="Exactly-once GPU inference on Kafka. First steps: streamer check lead-scoring",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("windows")(windows.windows)
app.command("days")(days.days)
app.command("check")(check.check)
app.add_typer(topics.app, name="topics")
app.command("produce")(produce.produce)
app.command("tail")(tail.tail)
app.command("lag")(lag.lag)
app.command("replay")(replay.replay)
app.command("backfill")(backfill.backfill)
app.command("bench")(bench.bench)
app.add_typer(features.app, name="features")
app.add_typer(schema.app, name="schema")
app.add_typer(models.app, name="models")
app.command("version")(run.version)


def main() -> None:
    """Run the command line; ends the process with 0, 130 after Ctrl-C, or the code of the error's class."""
    try:
        app()
    except Exit as error:
        print(f"streamer: {error}", file=sys.stderr)
        sys.exit(error.code)
