"""Does another process use this replica's transactional id?"""

from __future__ import annotations

FENCES = 5
"""This many fences in a row come from another process. Fewer may be our own: when a coordinator froze or moved, a
request for a producer id that we gave up may still be served, and fences the producer that followed."""
APART_S = 10.0
"""A fence that comes later than this after the last one begins a new count."""


class Rivals:
    """Counts how often this replica is fenced. Two processes with one id fence each other as long as both live."""

    def __init__(self) -> None:
        self._row = 0
        self._last = float("-inf")

    def fenced(self, now: float) -> bool:
        """Count one more fence, at this time. Returns whether another process is behind it."""
        self._row = self._row + 1 if now - self._last < APART_S else 1
        self._last = now
        return self._row >= FENCES
