"""Time, passed in so that a test can hold it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that only grows, for waits, and the wall's, to compare with what records carry."""

    def now(self) -> float:
        """Seconds on a clock that never goes back; the origin means nothing."""

    def time_ms(self) -> int:
        """Milliseconds since 1970, as Kafka's record timestamps."""

    def sleep(self, seconds: float) -> None:
        """Let time pass: for the owner thread when only time can change anything."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.monotonic()

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Deadline:
    """One budget of time that all steps of a stop or a revoke share."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.now() + seconds

    def left(self, at_least: float = 0.0) -> float:
        """Seconds that are left, never below `at_least` (a step that must not be given zero)."""
        return max(self._end - self._clock.now(), at_least)

    def passed(self) -> bool:
        return self._clock.now() >= self._end
