"""What a worker says of itself at /metrics, as numbers for the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException

import msgspec
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 2.0


class Figures(msgspec.Struct):
    """One worker's counts since its start; `batches` and `batched` (their events) by the reason for their release."""

    predicted: int = 0
    dead_lettered: int = 0
    skipped: int = 0
    hits: int = 0
    misses: int = 0
    lag: int = 0
    batches: Counter[str] = msgspec.field(default_factory=Counter)
    batched: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def outcomes(self) -> int:
        """Events with a durable outcome."""
        return self.predicted + self.dead_lettered + self.skipped

    def hit_rate(self) -> float | None:
        """The share of answers that came from the cache, 0..1; None before the first look-up."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def batch_mean(self) -> float | None:
        """Events in a batch; None before the first."""
        batches = self.batches.total()
        return self.batched.total() / batches if batches else None


class Probe:
    """The HTTP side of a worker at `port` of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ok(self, path: str) -> bool:
        """Whether a probe such as /readyz says yes; a worker that does not listen yet says no."""
        return self._get(path)[0] == 200

    def figures(self) -> Figures | None:
        """What /metrics says; None when it does not answer."""
        status, body = self._get("/metrics")
        return parse(body) if status == 200 else None

    def _get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, HTTPException):
            return 0, ""
        finally:
            connection.close()


def parse(text: str) -> Figures:
    """Figures of one worker's metrics in Prometheus' text format."""
    figures = Figures()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            _add(figures, sample.name, sample.labels, int(sample.value))
    return figures


def total(several: Iterable[Figures]) -> Figures:
    """The sum over workers."""
    summed = Figures()
    for figures in several:
        for name in ("predicted", "dead_lettered", "skipped", "hits", "misses", "lag"):
            setattr(summed, name, getattr(summed, name) + getattr(figures, name))
        summed.batches += figures.batches
        summed.batched += figures.batched
    return summed


def _add(figures: Figures, name: str, labels: dict[str, str], value: int) -> None:
    match name, labels:
        case "streamer_messages_produced_total", {"outcome": "ok"}:
            figures.predicted += value
        case "streamer_messages_produced_total", {"outcome": "dlq"}:
            figures.dead_lettered += value
        case "streamer_messages_produced_total", {"outcome": "skipped"}:
            figures.skipped += value
        case "streamer_cache_requests_total", {"result": "hit" | "coalesced"}:
            figures.hits += value
        case "streamer_cache_requests_total", {"result": "miss"}:
            figures.misses += value
        case "streamer_consumer_lag_messages", _:
            figures.lag += value
        case "streamer_batch_size_count", {"reason": reason}:
            figures.batches[reason] += value
        case "streamer_batch_size_sum", {"reason": reason}:
            figures.batched[reason] += value
