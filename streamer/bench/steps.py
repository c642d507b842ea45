"""Shows the current step on stderr: a bar on a terminal, else one line for each step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.telemetry.progress import progress


@contextmanager
def step(text: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """One step of the run; call the yielded function with how much more of `total` (None: unknown) is done."""
    with progress() as bar:
        if bar.disable:
            print(text, file=sys.stderr, flush=True)
        task = bar.add_task(text, total=total)
        yield lambda more: bar.advance(task, more)
