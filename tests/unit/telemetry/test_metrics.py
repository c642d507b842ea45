"""Metrics: the names that dashboards use, counted in bulk, and no ids in labels."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streamer.errors import Reason
from streamer.records import Cached, Outcome, Rejected, Skipped
from streamer.slices import Batch, BatchResult, Rows
from streamer.telemetry.metrics import BulkHistogram, Metrics
from tests.slices import row, rows

NOW_MS = 1_700_000_000_000


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics("lead-scoring", "v3", registry)


def settled(outcome: Outcome, age_ms: int = 0) -> Rows:
    one = row(key=b"customer-7", timestamp_ms=NOW_MS - age_ms)
    one.settle(outcome)
    return one.alone()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"streamer_{name}", {"worker": "lead-scoring", **labels})


def test_outcomes_and_dead_letters_are_counted(metrics: Metrics, registry: CollectorRegistry) -> None:
    durable = [
        settled(b"{}"),
        settled(Cached(b"{}")),
        settled(Rejected(Reason.INVALID, "m", "E")),
        settled(Rejected(Reason.INVALID, "m", "E")),
        settled(Rejected(Reason.NO_KEY, "m", "E")),
        settled(Skipped()),
    ]
    metrics.committed(durable, NOW_MS, 0.004)
    metrics.committed(durable[:1], NOW_MS, 0.004)
    assert value(registry, "messages_produced_total", outcome="ok") == 3
    assert value(registry, "messages_produced_total", outcome="dlq") == 3
    assert value(registry, "messages_produced_total", outcome="skipped") == 1
    assert value(registry, "dlq_messages_total", reason="invalid") == 2
    assert value(registry, "dlq_messages_total", reason="no-key") == 1
    assert value(registry, "commit_duration_seconds_count") == 2
    assert value(registry, "end_to_end_latency_seconds_count") == 7


def test_latency_is_from_the_records_timestamp(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.committed([settled(b"{}", 5), settled(b"{}", 30), settled(b"{}", 7_200_000)], NOW_MS, 0.0)
    assert value(registry, "end_to_end_latency_seconds_sum") == pytest.approx(7200.035)
    assert value(registry, "end_to_end_latency_seconds_bucket", le="0.005") == 1
    assert value(registry, "end_to_end_latency_seconds_bucket", le="0.05") == 2
    assert value(registry, "end_to_end_latency_seconds_bucket", le="3600.0") == 2
    assert value(registry, "end_to_end_latency_seconds_bucket", le="+Inf") == 3


def test_a_clock_ahead_is_no_negative_latency_and_no_timestamp_none(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    unknown = settled(Skipped(), NOW_MS + 1)  # a record without timestamp has -1
    metrics.committed([settled(Skipped(), -5000), unknown], NOW_MS, 0.0)
    assert value(registry, "end_to_end_latency_seconds_count") == 1
    assert value(registry, "end_to_end_latency_seconds_sum") == 0


def test_nothing_committed_counts_no_latency(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.committed([], NOW_MS, 0.0)
    assert value(registry, "end_to_end_latency_seconds_count") == 0


def test_bulk_histogram_agrees_with_prometheus_own() -> None:
    from prometheus_client import Histogram

    bounds = (0.1, 1.0, 10.0)
    values = np.array([0.05, 0.1, 0.100001, 1.0, 5.0, 10.0, 11.0])
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("h", "help", bounds, {"a": "b"})
    ours.register(bulk)
    single = Histogram("h", "help", ["a"], buckets=bounds, registry=theirs).labels("b")
    bulk.observe_many(values[:3])
    bulk.observe_many(values[3:])
    for one in values:
        single.observe(one)
    for le in ("0.1", "1.0", "10.0", "+Inf"):
        labels = {"a": "b", "le": le}
        assert ours.get_sample_value("h_bucket", labels) == theirs.get_sample_value("h_bucket", labels)
    assert ours.get_sample_value("h_sum", {"a": "b"}) == pytest.approx(values.sum())


def test_batches_are_measured_by_reason(metrics: Metrics, registry: CollectorRegistry) -> None:
    batch = Batch([rows(1, 2), rows(5)], reason="idle", cost=3, waited_s=0.003)
    metrics.batch(BatchResult(batch=batch, outcomes=[], seconds=0.02), 0.003)
    assert value(registry, "batch_size_sum", reason="idle") == 3
    assert value(registry, "batch_wait_seconds_sum") == 0.003
    assert value(registry, "inference_duration_seconds_sum") == 0.02


def test_counts_and_states(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.consumed(4)
    metrics.cache(hits=3, misses=2, coalesced=1, errors=0)
    metrics.rebalance("revoked")
    metrics.transaction("unclear")
    metrics.depth(waiting=5, in_flight=9)
    metrics.circuit("open")
    assert value(registry, "messages_consumed_total") == 4
    assert value(registry, "cache_requests_total", result="hit") == 3
    assert value(registry, "cache_requests_total", result="miss") == 2
    assert value(registry, "cache_requests_total", result="coalesced") == 1
    assert value(registry, "cache_requests_total", result="error") is None
    assert value(registry, "rebalances_total", kind="revoked") == 1
    assert value(registry, "transactions_total", result="unclear") == 1
    assert value(registry, "queue_depth", stage="waiting") == 5
    assert value(registry, "queue_depth", stage="in_flight") == 9
    assert value(registry, "circuit_state") == 2
    assert value(registry, "build_info", model_version="v3", version="0.1.0") == 1


def test_a_partition_that_was_given_up_has_no_lag(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.lag({0: 5, 1: 7}, 12.5)
    metrics.lag({1: 6}, 0.5)
    assert value(registry, "consumer_lag_messages", partition="0") is None
    assert value(registry, "consumer_lag_messages", partition="1") == 6
    assert value(registry, "consumer_lag_seconds") == 0.5


def test_text_is_what_prometheus_reads_and_holds_no_ids(metrics: Metrics) -> None:
    metrics.committed([settled(Rejected(Reason.INVALID, "message of customer-7", "E"))], NOW_MS, 0.1)
    text = metrics.text().decode()
    families = list(text_string_to_metric_families(text))
    assert "customer-7" not in text
    assert all(family.name.startswith("streamer_") for family in families)
    assert {sample.labels["worker"] for family in families for sample in family.samples} == {"lead-scoring"}
