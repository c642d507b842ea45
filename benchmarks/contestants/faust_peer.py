"""Faust (faust-streaming): an agent that takes what comes within 10 ms, up to a batch, and publishes the outputs.

At least once when the process is killed: a batch is acknowledged after its outputs are, and positions are committed
each 100 ms. An exception in the agent would acknowledge its batch all the same; Faust's `take` is made so.

Settings that made it faster here: uvloop, its opt-in Cython paths, a linger of 10 ms, outputs sent by `app.producer`
(`Topic.send` adds a future and two sensor calls to each), and its own set-up of logging left out, which has every
client format debug messages that nobody reads.
"""

from __future__ import annotations

import asyncio
import logging
from tempfile import TemporaryDirectory
from typing import Any

import faust
from mode import loop

from benchmarks import work
from benchmarks.contestants import common

COMMIT_S = 0.1
LINGER_S = 0.01
WINDOW_S = 0.01


def application(bootstrap: str, source: str, target: str, group: str, todo: work.Work, folder: str) -> faust.App:
    """The application with its one agent."""
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        datadir=folder,
        broker_commit_interval=COMMIT_S,
        consumer_auto_offset_reset="earliest",
        producer_linger=LINGER_S,
        cython_optimizations=True,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    events = app.topic(source, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    @app.agent(events)
    async def score(stream: Any) -> None:
        async for batch in stream.take_events(todo.batch_max, within=WINDOW_S):
            outputs = todo.run([event.value for event in batch])
            sent = [
                await app.producer.send(target, event.key, output, None, None, None)
                for event, output in zip(batch, outputs, strict=True)
                if output is not None
            ]
            await asyncio.gather(*sent)

    return app


def main() -> None:
    """Serve what the command line says. The worker itself ends at SIGTERM."""
    options = common.options()
    todo = work.make(options.work)
    logging.basicConfig(level=logging.WARNING)
    loop.use("uvloop")
    with TemporaryDirectory(prefix="faust-") as folder:
        app = application(options.bootstrap, options.source, options.target, options.group, todo, folder)
        faust.Worker(app, loglevel="WARNING", override_logging=False).execute_from_commandline()


if __name__ == "__main__":
    main()
