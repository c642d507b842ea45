"""The closing account: JSON for programs, a few lines for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamer.demo.scrape import Figures
from streamer.demo.tally import Tally, percentile


class Latency(msgspec.Struct, frozen=True):
    """From the call that sends an event to the receipt of its prediction, in milliseconds."""

    p50: float | None
    p99: float | None


class CacheUse(msgspec.Struct, frozen=True):
    """The cache that was used, and the share of look-ups (0..1) that it answered."""

    what: str
    hit_rate: float | None


class Batches(msgspec.Struct, frozen=True):
    """The mean number of events in a batch, and the number of batches for each reason of release."""

    mean: float | None
    by_reason: dict[str, int]


class Places(msgspec.Struct, frozen=True):
    """Where the demo ran."""

    broker: str
    cache: str
    device: str


class Summary(msgspec.Struct, frozen=True):
    """`accounted` is the point of the demo: produced = predicted + dead_lettered + skipped. The broker did not take
    `undelivered` events; `repeated` outcomes were read twice; `logs` is the folder of the processes' logs, kept when
    not every event was accounted for."""

    accounted: bool
    produced: int
    predicted: int
    dead_lettered: int
    skipped: int
    undelivered: int
    repeated: int
    first_prediction_s: float | None
    events_per_s: float | None
    latency_ms: Latency
    batch: Batches
    cache: CacheUse
    broker: str
    device: str
    logs: str | None = None


def summarise(tally: Tally, figures: Figures, places: Places, began: float) -> Summary:
    """The account of everything since `began`, seconds on the monotonic clock."""
    counts = tally.counts()
    latencies = tally.latencies()
    outcomes = counts.predicted + counts.dead_lettered + figures.skipped
    first, last = tally.first_sent, tally.last_outcome
    return Summary(
        accounted=counts.produced == outcomes,
        produced=counts.produced,
        predicted=counts.predicted,
        dead_lettered=counts.dead_lettered,
        skipped=figures.skipped,
        undelivered=counts.undelivered,
        repeated=counts.repeated,
        first_prediction_s=None if tally.first_predicted is None else round(tally.first_predicted - began, 2),
        events_per_s=round(outcomes / (last - first), 1) if first and last and last > first else None,
        latency_ms=Latency(_ms(percentile(latencies, 0.5)), _ms(percentile(latencies, 0.99))),
        batch=Batches(_rounded(figures.batch_mean(), 2), dict(figures.batches)),
        cache=CacheUse(places.cache, _rounded(figures.hit_rate(), 3)),
        broker=places.broker,
        device=places.device,
    )


def lines(summary: Summary) -> list[tuple[str, str]]:
    """The summary for a person: pairs of a label and a value."""
    parts = (
        f"{summary.produced:,} produced = {summary.predicted:,} predicted + "
        f"{summary.dead_lettered:,} dead-lettered + {summary.skipped:,} skipped"
    )
    return [
        ("every event" if summary.accounted else "NOT EVERY EVENT", parts if summary.accounted else _missing(summary)),
        ("first prediction", f"{number(summary.first_prediction_s)} s after the start"),
        ("throughput", f"{number(summary.events_per_s)} events/s"),
        ("latency", f"p50 {number(summary.latency_ms.p50)} ms, p99 {number(summary.latency_ms.p99)} ms"),
        ("batches", f"{number(summary.batch.mean)} events on average; {reasons(summary.batch.by_reason)}"),
        ("cache", f"{summary.cache.what}, {share(summary.cache.hit_rate)} hits"),
        ("broker", summary.broker),
        ("device", summary.device),
    ]


def next_steps(workers: Sequence[str]) -> list[tuple[str, str]]:
    """Commands to try, and the purpose of each."""
    worker = workers[0]
    return [
        (f"streamer check {worker}", "is everything there to run it for real?"),
        (f"streamer run {worker} --set kafka.bootstrap_servers=HOST:9092", "on a Kafka of yours"),
        ("streamer run my_worker.py:MyWorker", "a worker of your own: one file, see README.md"),
    ]


def number(value: float | None) -> str:
    """With one decimal below 10 and none above; "-" for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def share(value: float | None) -> str:
    """A share of 0..1 in percent; "-" for None."""
    return "-" if value is None else f"{value:.0%}"


def reasons(batches: dict[str, int]) -> str:
    """The reasons for releasing batches, the most frequent first."""
    total = sum(batches.values())
    common = sorted(batches.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{reason} {count / total:.0%}" for reason, count in common) or "-"


def _missing(summary: Summary) -> str:
    outcomes = summary.predicted + summary.dead_lettered + summary.skipped
    return (
        f"{summary.produced:,} produced, but {outcomes:,} = {summary.predicted:,} predicted + "
        f"{summary.dead_lettered:,} dead-lettered + {summary.skipped:,} skipped"
    )


def _ms(seconds: float | None) -> float | None:
    return _rounded(None if seconds is None else seconds * 1000, 1)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
