"""What became of every event, and how long it took. Written by the simulator's and the reader's threads."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

LATENCIES_MAX = 200_000
"""Percentiles cover this many latest predictions."""


class Counts(NamedTuple):
    """Events so far. The broker has acknowledged the `produced` ones and has not taken the `undelivered` ones;
    `repeated` are outcomes that came again, which a reader of committed records never sees from Kafka."""

    produced: int
    predicted: int
    dead_lettered: int
    undelivered: int
    repeated: int
    in_flight: int


class Tally:
    """Counts, and the latency of every prediction: from the call that sends to the receipt of the answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, float] = {}  # event id -> when it was sent; without events that will be skipped
        self._produced = self._predicted = self._dead = self._undelivered = self._repeated = 0
        self._latencies: deque[float] = deque(maxlen=LATENCIES_MAX)  # seconds
        self.first_sent: float | None = None
        self.first_predicted: float | None = None
        self.last_outcome: float | None = None

    def sent(self, event_id: str, outcome: str, at: float) -> None:
        """An event is about to be sent; `outcome` is what must become of it."""
        with self._lock:
            if self.first_sent is None:
                self.first_sent = at
            if outcome != "skipped":
                self._waiting[event_id] = at

    def delivered(self) -> None:
        """The broker has acknowledged an event."""
        with self._lock:
            self._produced += 1

    def not_delivered(self, event_id: str) -> None:
        """The broker has not taken an event."""
        with self._lock:
            self._waiting.pop(event_id, None)
            self._undelivered += 1

    def predicted(self, event_id: str, at: float) -> float | None:
        """A prediction was received: return its latency in seconds, None when it had come before."""
        with self._lock:
            sent = self._waiting.pop(event_id, None)
            if sent is None:
                self._repeated += 1
                return None
            self._predicted += 1
            self._latencies.append(at - sent)
            self.last_outcome = at
            if self.first_predicted is None:
                self.first_predicted = at
            return at - sent

    def dead_lettered(self, event_id: str, at: float) -> None:
        """A dead letter was received."""
        with self._lock:
            if self._waiting.pop(event_id, None) is None:
                self._repeated += 1
                return
            self._dead += 1
            self.last_outcome = at

    def in_flight(self) -> int:
        """Events without an outcome yet."""
        return len(self._waiting)

    def counts(self) -> Counts:
        """A consistent view of all counts."""
        with self._lock:
            return Counts(
                self._produced, self._predicted, self._dead, self._undelivered, self._repeated, len(self._waiting)
            )

    def latencies(self, latest: int = LATENCIES_MAX) -> list[float]:
        """Seconds from event to prediction, of the `latest` predictions, the last one first."""
        with self._lock:
            return list(islice(reversed(self._latencies), latest))


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` (0..1) of the values do not exceed; None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
