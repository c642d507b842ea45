"""Memory: Python's garbage collector, run when it costs least, and the C library's, kept in one place.

Tens of thousands of live objects are in flight, none in cycles. By default Python walks them again and again: a quarter
of the CPU per event of a small model, and pauses of 30 ms. Exceptions and a worker's own code leave few cycles; these
can wait for a moment with nothing in flight, or a minute."""

from __future__ import annotations

import ctypes
import gc
from typing import Protocol

IDLE_EVERY_S = 10.0
BUSY_EVERY_S = 60.0
M_ARENA_MAX, ARENAS = -8, 2
"""glibc's name for the option (malloc.h), and our choice."""


def few_arenas() -> None:
    """Have glibc serve all threads from two memory pools instead of eight a core: the threads of each new producer
    would take other pools, and a pool keeps the memory that it once needed. Call it while there are few threads; later
    glibc ignores it. Without glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Have glibc return free memory to the system, in the middle of its pools too. By itself glibc returns only their
    ends, and a worker would keep the memory of its largest backlog. Without glibc it does nothing."""
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
    """Switches the automatic collector off and collects rarely; then it gives free memory back."""

    def __init__(self) -> None:
        self._collected = 0.0

    def start(self) -> None:
        """Objects that are alive now (modules, the model) stay, and are not walked again."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def collect(self, now: float, in_flight: int) -> None:
        if now - self._collected >= (BUSY_EVERY_S if in_flight else IDLE_EVERY_S):
            self._collected = now
            gc.collect()
            give_back()
