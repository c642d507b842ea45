"""Memory: Python's garbage collector, run when it costs least, and the C library's, kept in one place.

Tens of thousands of live objects are in flight, none in cycles. By default Python walks them all again and again: a
quarter of the CPU per event of a small model, and pauses of 30 ms. What does leave cycles (exceptions, a worker's own
code) is little, and can wait for a moment with nothing in flight, or a minute.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Protocol

IDLE_EVERY_S = 10.0
BUSY_EVERY_S = 60.0
M_ARENA_MAX, ARENAS = -8, 2
"""glibc's name for the option (malloc.h), and our choice."""


def few_arenas() -> None:
    """Have glibc serve all threads from two pools of memory, not from eight a core: each new producer's threads would
    take others of them, and what one has once needed it keeps. To be called while there are few threads, as later it
    is not heeded; elsewhere than on glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Have glibc return to the system what is free, in the middle of its pools too: by itself it returns ends, and
    a worker would keep what its largest backlog once took. Elsewhere it does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Garbage(Protocol):
    """Takes the garbage out."""

    def collect(self, now: float, in_flight: int) -> None:
        """Called every second or so, at `now` seconds, with `in_flight` records read and not durable."""


class LeaveGarbage:
    """Leaves it to Python."""

    def collect(self, now: float, in_flight: int) -> None:
        """Nothing to do."""


class QuietCollector:
    """Switches the automatic collector off and collects by itself, rarely; then memory that is free is given back."""

    def __init__(self) -> None:
        self._collected = 0.0

    def start(self) -> None:
        """What is alive now (modules, the model) stays, and is not looked at again."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def collect(self, now: float, in_flight: int) -> None:
        if now - self._collected >= (BUSY_EVERY_S if in_flight else IDLE_EVERY_S):
            self._collected = now
            gc.collect()
            give_back()
