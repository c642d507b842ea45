"""Every metric name in one place. Base units; labels of few values, never ids.

The engine calls once a batch, never once an event: what is measured of each event is counted in bulk.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streamer.records import Cached, Rejected, Skipped
from streamer.slices import BatchResult, Rows
from streamer.telemetry.stopwatch import Stopwatch

LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600)
"""An event may be milliseconds old, or an hour in a backlog."""
STEP_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
OUTCOMES: Mapping[type, str] = {Cached: "ok", Rejected: "dlq", Skipped: "skipped"}
CIRCUIT = {"closed": 0, "half-open": 1, "open": 2}


class BulkHistogram(Collector):
    """A histogram that takes many values in one call; `Histogram.observe` would cost a call an event."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float], labels: Mapping[str, str]) -> None:
        self._name = name
        self._help = help_text
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._labels = dict(labels)
        # One value that is swapped whole: a scrape on another thread never sees half an update.
        self._state: tuple[npt.NDArray[np.int64], float] = (np.zeros(len(bounds) + 1, dtype=np.int64), 0.0)

    def observe_many(self, values: npt.NDArray[np.float64]) -> None:
        """Count values; a value that equals a bound belongs below it."""
        counts, total = self._state
        places = np.searchsorted(self._bounds, values, side="left")
        self._state = (counts + np.bincount(places, minlength=len(counts)), total + float(values.sum()))

    def collect(self) -> Iterator[Metric]:
        counts, total = self._state
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._help, labels=list(self._labels))
        family.add_metric(
            list(self._labels.values()),
            [(name, float(count)) for name, count in zip(names, counts.cumsum(), strict=True)],
            total,
        )
        yield family


class StageSeconds(Collector):
    """A counter of seconds by stage, read from stopwatches when it is asked for."""

    def __init__(self, name: str, help_text: str, worker: str) -> None:
        self._name = name
        self._help = help_text
        self._worker = worker
        self.stopwatches: list[Stopwatch] = []

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=["worker", "stage"])
        for stopwatch in self.stopwatches:
            for stage, seconds in list(stopwatch.seconds.items()):
                family.add_metric([self._worker, stage], seconds)
        yield family


class Metrics:
    """What a worker tells of itself; called from the owner thread, read from any."""

    def __init__(self, worker: str, model_version: str, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._worker = worker
        self._lag_partitions: set[int] = set()

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"streamer_{name}", help_text, ["worker", *labels], registry=registry)

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(f"streamer_{name}", help_text, ["worker", *labels], registry=registry)

        def histogram(name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"streamer_{name}", help_text, ["worker", *labels], buckets=buckets, registry=registry)

        self._consumed = counter("messages_consumed", "Records read").labels(worker)
        self._produced = counter("messages_produced", "Records with a durable outcome: ok, dlq, skipped", "outcome")
        self._dead = counter("dlq_messages", "Durable dead letters", "reason")
        self._cache = counter("cache_requests", "Look-ups: hit, miss, coalesced, error", "result")
        self._bad_values = counter(
            "redis_bad_values",
            "Values in Redis that are not what this deployment wrote, by kind: answer, features",
            "of",
        )
        self._rebalances = counter("rebalances", "Group changes: assigned, revoked, lost", "kind")
        self._transactions = counter("transactions", "Commits: committed, aborted, unclear, rebuilt", "result")
        self._batch_size = histogram("batch_size", "Events in a batch, by why it was released", SIZES, "reason")
        self._batch_wait = histogram("batch_wait_seconds", "From read to submit of a batch's first event", STEP_S)
        self._inference = histogram("inference_duration_seconds", "Encode, predict and decode of a batch", STEP_S)
        self._commit = histogram("commit_duration_seconds", "Publish outcomes and commit offsets", STEP_S)
        self._depth = gauge("queue_depth", "Records: waiting for the device, in flight (read, not durable)", "stage")
        self._lag = gauge("consumer_lag_messages", "Records between position and end", "partition")
        self._lag_s = gauge("consumer_lag_seconds", "Age of the oldest record without an outcome").labels(worker)
        self._circuit = gauge("circuit_state", "Circuit breaker of the cache: 0 closed, 1 half-open, 2 open")
        self._latency = BulkHistogram(
            "streamer_end_to_end_latency_seconds",
            "From a record's timestamp until its outcome is durable",
            LATENCY_S,
            {"worker": worker},
        )
        registry.register(self._latency)
        self._stages = StageSeconds("streamer_stage_seconds", "Where the threads' time goes, waits included", worker)
        registry.register(self._stages)
        info = gauge("build_info", "Always 1: what runs here", "version", "model_version")
        info.labels(worker, version("streamer"), model_version).set(1)

    def watch(self, stopwatch: Stopwatch) -> None:
        """Show where this thread's time goes."""
        self._stages.stopwatches.append(stopwatch)

    def consumed(self, count: int) -> None:
        """Records were read."""
        self._consumed.inc(count)

    def batch(self, result: BatchResult, waited_s: float) -> None:
        """A batch came back from the device; its first event had waited `waited_s` seconds for it."""
        self._batch_size.labels(self._worker, result.batch.reason).observe(len(result.batch))
        self._batch_wait.labels(self._worker).observe(waited_s)
        self._inference.labels(self._worker).observe(result.seconds)

    def committed(self, durable: Sequence[Rows], now_ms: int, seconds: float) -> None:
        """Outcomes became durable at `now_ms` (milliseconds since 1970), by a commit of `seconds`."""
        self._commit.labels(self._worker).observe(seconds)
        rare = [outcome for rows in durable for outcome in rows.rare().values()]
        counts = Tally(OUTCOMES[type(outcome)] for outcome in rare)
        counts["ok"] += sum(map(len, durable)) - len(rare)
        for outcome, count in counts.items():
            self._produced.labels(self._worker, outcome).inc(count)
        for reason, count in Tally(one.reason for one in rare if isinstance(one, Rejected)).items():
            self._dead.labels(self._worker, reason).inc(count)
        sent_ms = np.array([at_ms for rows in durable for at_ms in rows.of(rows.columns.times_ms)], dtype=np.int64)
        known = sent_ms[sent_ms > 0]  # a record may have no timestamp
        # A producer's clock may be ahead of ours: that is no negative latency.
        self._latency.observe_many(np.maximum(now_ms - known, 0) / 1000)

    def cache(self, hits: int, misses: int, coalesced: int, errors: int) -> None:
        """Look-ups were answered; `coalesced` are those that share an answer that is being computed."""
        for result, count in (("hit", hits), ("miss", misses), ("coalesced", coalesced), ("error", errors)):
            if count:
                self._cache.labels(self._worker, result).inc(count)

    def redis_bad_values(self, of: str, count: int) -> None:
        """Values that were cut, changed, moved or put there by somebody else; they count as missing."""
        self._bad_values.labels(self._worker, of).inc(count)

    def rebalance(self, kind: str) -> None:
        """The group moved partitions: assigned, revoked or lost."""
        self._rebalances.labels(self._worker, kind).inc()

    def transaction(self, result: str) -> None:
        """A commit ended: committed, aborted or unclear; or its producer was rebuilt."""
        self._transactions.labels(self._worker, result).inc()

    def depth(self, waiting: int, in_flight: int) -> None:
        """Records that wait for the device, and all that are read and not durable yet."""
        self._depth.labels(self._worker, "waiting").set(waiting)
        self._depth.labels(self._worker, "in_flight").set(in_flight)

    def lag(self, messages: Mapping[int, int], seconds: float) -> None:
        """Records behind the end by partition (only those that are ours), and the age of the oldest, in seconds."""
        for partition in self._lag_partitions - messages.keys():
            self._lag.remove(self._worker, str(partition))
        self._lag_partitions = set(messages)
        for partition, behind in messages.items():
            self._lag.labels(self._worker, str(partition)).set(behind)
        self._lag_s.set(seconds)

    def circuit(self, state: str) -> None:
        """The cache's breaker is closed, half-open or open."""
        self._circuit.labels(self._worker).set(CIRCUIT[state])

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self._registry)


class _Beside:
    """What a process beside a worker tells of itself. `name` is the metric that counts what came of records."""

    def __init__(self, worker: str, registry: CollectorRegistry, name: str, verdicts: str) -> None:
        self._registry = registry
        self._worker = worker
        self._records = Counter(
            name, f"Records by what came of them: {verdicts}", ["worker", "verdict"], registry=registry
        )

    def records(self, verdicts: Mapping[str, int]) -> None:
        """Records were taken in."""
        for verdict, count in verdicts.items():
            self._records.labels(self._worker, verdict).inc(count)

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self._registry)


class WindowMetrics(_Beside):
    """What the windows process of a worker tells of itself."""

    def __init__(self, worker: str, registry: CollectorRegistry) -> None:
        verdicts = "taken, known (read again), repeated (of an id), late, future, unreadable"
        super().__init__(worker, registry, "streamer_windows_records", verdicts)
        self._restored = Counter(
            "streamer_windows_restored",
            "Entities that were written to Redis again because Redis had lost them, or may have",
            ["worker"],
            registry=registry,
        ).labels(worker)
        self._lag = Gauge(
            "streamer_windows_lag_messages", "Records that are not in the windows yet", ["worker"], registry=registry
        ).labels(worker)

    def restored(self, entities: int) -> None:
        """Entities were written again."""
        self._restored.inc(entities)

    def lag(self, messages: int) -> None:
        """Records that are not taken in yet, of all partitions that are ours."""
        self._lag.set(messages)


class DayMetrics(_Beside):
    """What the days process of a worker tells of itself."""

    def __init__(self, worker: str, registry: CollectorRegistry) -> None:
        verdicts = "taken, repeated (of an id), late, future, unreadable"
        super().__init__(worker, registry, "streamer_days_records", verdicts)
        self._events = Counter(
            "streamer_days_events", "Events of days that are over", ["worker"], registry=registry
        ).labels(worker)
        self._told = Gauge(
            "streamer_days_told_timestamp_seconds", "End of the last day that was told", ["worker"], registry=registry
        ).labels(worker)

    def told(self, end_s: float, events: int) -> None:
        """A day that ended at `end_s` (seconds since 1970) has been told, by so many events."""
        self._told.set(end_s)
        self._events.inc(events)
