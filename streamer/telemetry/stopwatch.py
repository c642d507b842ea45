"""Where a thread's time goes, stage by stage: one reading of a clock a stage, for any number of events."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Seconds by stage, of one thread; another may read them at any time."""

    def __init__(self, now: Callable[[], float], *stages: str) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(stages, 0.0)
        self._now = now
        self._at = now()

    def start(self) -> None:
        """The time until now belongs to no stage."""
        self._at = self._now()

    def lap(self, stage: str) -> None:
        """The time since the last lap belongs to this stage."""
        now = self._now()
        self.seconds[stage] += now - self._at
        self._at = now
