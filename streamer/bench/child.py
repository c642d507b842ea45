"""The worker under measurement: `app.run`, as `streamer run` calls it, but on the topics of the run.

The topics of a worker are attributes of its class, so a subclass can name other topics and share the code.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
from pydantic import SecretStr

from streamer.errors import Exit, Internal
from streamer.settings import Settings


class Job(msgspec.Struct, frozen=True):
    """The child's task: the worker as the command line names it, its topics, and all of its settings."""

    worker: str
    source: str
    target: str
    settings: dict[str, Any]


def job(worker: str, source: str, target: str, settings: Settings) -> bytes:
    """One line for the child's stdin. Settings may hold passwords, and other users can read a process's arguments."""
    told = Job(worker, source, target, settings.model_dump())
    return msgspec.json.encode(told, enc_hook=_plain) + b"\n"


def main() -> None:
    """Read the job from stdin, then serve until SIGTERM; end at once when the other end of stdin closes."""
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    threading.Thread(target=_leash, name="leash", daemon=True).start()
    # Imported after the leash is on: torch takes seconds, and the parent may be killed meanwhile.
    from streamer import app, discovery
    from streamer.telemetry import log

    settings = Settings(**told.settings)
    log.configure(settings.log.level, settings.log.format)
    try:
        found = discovery.find(told.worker)
        app.run(settings, type(found.__name__, (found,), {"source": told.source, "target": told.target})())
    except Exit as error:
        print(f"streamer: {error}", file=sys.stderr)
        sys.exit(error.code)


def _leash() -> None:
    while os.read(0, 1):  # this read would lock the file object, and the interpreter could not end
        pass
    os._exit(1)


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise Internal(f"a setting of {type(value).__name__} cannot be handed to the worker")


if __name__ == "__main__":
    main()
