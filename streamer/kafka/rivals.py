"""Does another process use this replica's transactional id?"""

from __future__ import annotations

FENCES = 5
"""So many in a row are a rival's. Fewer may be our own: where a coordinator froze or moved, each request for a producer
id that we gave up may still be obeyed, and fences the producer that followed."""
APART_S = 10.0
"""A fence that comes later than this after the last begins a new row."""


class Rivals:
    """Counts how often this replica is fenced. Two processes of one id fence each other for as long as both live."""

    def __init__(self) -> None:
        self._row = 0
        self._last = float("-inf")

    def fenced(self, now: float) -> bool:
        """Count one more, at this time; whether it is a rival."""
        self._row = self._row + 1 if now - self._last < APART_S else 1
        self._last = now
        return self._row >= FENCES
