"""The parts of the demo that need no process: the simulator's events, the tally, the summary, the metrics' text."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from streamer.demo import answers
from streamer.demo.scrape import Figures, parse, total
from streamer.demo.simulator import BROKEN, Made, Simulation
from streamer.demo.summary import Places, lines, next_steps, number, reasons, share, summarise
from streamer.demo.tally import Tally, percentile
from streamer.demo.view import Picture, PlainView, Row
from streamer.errors import Unreachable, Usage
from streamer.telemetry.metrics import Metrics
from tests.echo import Echo
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PLACES = Places(broker="mock", cache="redis-server", device="cpu")
WORKERS = {worker.source: worker for worker in (LeadScoring(), TicketRouting())}


def records(count: int, seed: int = 1) -> list[Made]:
    simulation = Simulation(list(WORKERS.values()), "run", seed)
    return [simulation.record(NOW) for _ in range(count)]


def test_simulator_breaks_and_declines_the_share_that_it_says() -> None:
    outcomes = Counter(made.outcome for made in records(5_000))
    assert outcomes["dlq"] == pytest.approx(5_000 * BROKEN, rel=0.5)
    assert outcomes["skipped"] == pytest.approx(5_000 * 0.03, rel=0.5)
    assert set(outcomes) == {"ok", "dlq", "skipped"}


def test_simulated_records_end_as_the_simulator_says() -> None:
    for made in records(2_000):
        worker = WORKERS[made.topic]
        try:
            event = worker.event.model_validate_json(made.value)
        except ValidationError:
            assert made.outcome == "dlq"
            continue
        if made.key is None:
            assert made.outcome == "dlq"
            continue
        assert event.key.encode() == made.key
        assert event.event_id == made.event_id
        assert made.outcome == ("ok" if worker.accepts(event) else "skipped")


def test_every_way_to_break_an_event_is_used() -> None:
    broken = [made for made in records(5_000) if made.outcome == "dlq"]
    assert any(made.key is None for made in broken)
    assert any(b"NaN" in made.value for made in broken)
    assert any(b'"event_id": 17' in made.value for made in broken)
    assert any(not made.value.endswith(b"}") for made in broken)
    assert any(made.value.endswith(b"}") and b"occurred_at" not in made.value for made in broken)


def test_one_seed_makes_one_stream() -> None:
    assert records(200) == records(200)
    assert records(200) != records(200, seed=2)


def test_event_ids_are_never_used_twice() -> None:
    assert len({made.event_id for made in records(2_000)}) == 2_000


def test_keys_and_contents_come_again_so_that_order_and_cache_mean_something() -> None:
    made = [made for made in records(2_000) if made.outcome == "ok"]
    events = [WORKERS[one.topic].event.model_validate_json(one.value) for one in made]
    keys = {WORKERS[one.topic].cache_key(event, {}) for one, event in zip(made, events, strict=True)}  # type: ignore[arg-type]
    assert len({one.key for one in made}) < 0.6 * len(made)
    assert len(keys) < 0.8 * len(made)


def test_tickets_differ_in_length() -> None:
    tickets = [made for made in records(2_000) if made.topic == TicketRouting.source and made.outcome == "ok"]
    texts = [json.loads(made.value)["text"] for made in tickets]
    assert min(map(len, texts)) < 30
    assert max(map(len, texts)) > 250


def test_a_worker_without_samples_of_its_own_repeats_its_example() -> None:
    worker = Echo()
    made = Simulation([worker], "run", 1).record(NOW)
    assert json.loads(made.value)["event_id"] == "run-echo-0"


def test_tally_counts_each_outcome_once() -> None:
    tally = Tally()
    for event_id, outcome in (("a", "ok"), ("b", "dlq"), ("c", "skipped"), ("d", "ok")):
        tally.sent(event_id, outcome, 10.0)
        tally.delivered()
    assert tally.predicted("a", 10.25) == pytest.approx(0.25)
    assert tally.predicted("a", 10.5) is None
    tally.dead_lettered("b", 10.5)
    assert tally.counts() == (4, 1, 1, 0, 1, 1)
    tally.not_delivered("d")
    assert tally.in_flight() == 0
    assert tally.counts().undelivered == 1


def test_latencies_are_of_the_latest_predictions() -> None:
    tally = Tally()
    for at in range(5):
        tally.sent(str(at), "ok", 0.0)
        tally.predicted(str(at), float(at))
    assert tally.latencies(2) == [4.0, 3.0]


def test_percentile() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([float(n) for n in range(100, 0, -1)], 0.5) == 50
    assert percentile([float(n) for n in range(100, 0, -1)], 0.99) == 99


def spoken(predicted: int, dead: int, skipped: int) -> Tally:
    tally = Tally()
    ids = itertools.count()
    for outcome, count in (("ok", predicted), ("dlq", dead), ("skipped", skipped)):
        for _ in range(count):
            event_id = str(next(ids))
            tally.sent(event_id, outcome, 100.0)
            tally.delivered()
            if outcome == "ok":
                tally.predicted(event_id, 102.0)
            elif outcome == "dlq":
                tally.dead_lettered(event_id, 102.0)
    return tally


def test_summary_accounts_for_every_event() -> None:
    figures = Figures(skipped=2, hits=3, misses=1, batches=Counter(idle=4), batched=Counter(idle=6))
    summary = summarise(spoken(7, 1, 2), figures, PLACES, began=95.0)
    assert summary.accounted
    assert (summary.produced, summary.predicted, summary.dead_lettered, summary.skipped) == (10, 7, 1, 2)
    assert summary.first_prediction_s == 7.0
    assert summary.events_per_s == 5.0
    assert (summary.latency_ms.p50, summary.latency_ms.p99) == (2000.0, 2000.0)
    assert (summary.batch.mean, summary.batch.by_reason) == (1.5, {"idle": 4})
    assert summary.cache.hit_rate == 0.75


def test_summary_says_when_an_event_is_missing() -> None:
    summary = summarise(spoken(7, 1, 2), Figures(skipped=1), PLACES, began=95.0)
    assert not summary.accounted
    assert lines(summary)[0] == (
        "NOT EVERY EVENT",
        "10 produced, but 9 = 7 predicted + 1 dead-lettered + 1 skipped",
    )


def test_summary_of_nothing_says_so_without_failing() -> None:
    summary = summarise(Tally(), Figures(), PLACES, began=0.0)
    assert summary.first_prediction_s is None
    assert dict(lines(summary))["throughput"] == "- events/s"


def test_numbers_are_short() -> None:
    assert [number(value) for value in (None, 1.25, 9.96, 12.4, 1234.5)] == ["-", "1.2", "10.0", "12", "1,234"]
    assert [share(value) for value in (None, 0.437)] == ["-", "44%"]
    assert reasons({"idle": 1, "full": 3}) == "full 75%, idle 25%"
    assert reasons({}) == "-"


def test_without_any_redis_each_worker_remembers_for_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(answers, "_binaries", lambda: iter(()))
    assert answers.find(None, tmp_path) == (None, "in-process (no Redis here)", None)


def test_a_redis_binary_that_does_not_start_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(answers, "_binaries", lambda: iter([("/bin/false", "broken")]))
    assert answers.find(None, tmp_path).url is None


@pytest.mark.parametrize(("url", "error"), [("redis://127.0.0.1:1", Unreachable), ("http://somewhere", Usage)])
def test_a_given_redis_must_answer(url: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="--redis"):
        answers.find(url, tmp_path)


def test_figures_are_read_from_what_metrics_writes() -> None:
    metrics = Metrics("echo", "v1", CollectorRegistry())
    metrics.cache(hits=3, misses=5, coalesced=2, errors=1)
    metrics.lag({0: 4, 1: 6}, 1.5)
    figures = parse(metrics.text().decode())
    assert (figures.hits, figures.misses, figures.lag) == (5, 5, 10)
    assert figures.hit_rate() == 0.5
    assert figures.batch_mean() is None


def test_batches_and_outcomes_are_read_from_prometheus_text() -> None:
    figures = parse(
        "# TYPE streamer_messages_produced counter\n"
        'streamer_messages_produced_total{worker="w",outcome="ok"} 7.0\n'
        'streamer_messages_produced_total{worker="w",outcome="dlq"} 2.0\n'
        'streamer_messages_produced_total{worker="w",outcome="skipped"} 1.0\n'
        "# TYPE streamer_batch_size histogram\n"
        'streamer_batch_size_bucket{worker="w",reason="idle",le="+Inf"} 2.0\n'
        'streamer_batch_size_count{worker="w",reason="idle"} 2.0\n'
        'streamer_batch_size_sum{worker="w",reason="idle"} 5.0\n'
    )
    assert (figures.predicted, figures.dead_lettered, figures.skipped, figures.outcomes) == (7, 2, 1, 10)
    assert (figures.batches, figures.batched) == (Counter(idle=2), Counter(idle=5))
    assert total([figures, figures]).batch_mean() == 2.5


def test_plain_view_prints_stages_once_then_figures_and_the_account() -> None:
    out = io.StringIO()
    view = PlainView(out)
    with view:
        view.show(Picture(stage="the broker starts", elapsed_s=0.1, places=PLACES))
        view.show(Picture(stage="the broker starts", elapsed_s=0.2, places=PLACES))
        tally = spoken(7, 1, 2)
        rows = [Row("echo", 12.0, Figures(skipped=2))]
        view.show(Picture(stage="", elapsed_s=1.0, places=PLACES, rows=rows, counts=tally.counts(), p50_s=0.02))
        view.close_with(summarise(tally, Figures(skipped=2), PLACES, 95.0), ["echo"])
    text = out.getvalue()
    assert text.count("the broker starts") == 1
    assert "12 events/s  p50 20 ms  p99 -" in text
    assert "10 produced = 7 predicted + 1 dead-lettered + 2 skipped" in text
    assert all(command in text for command, _ in next_steps(["echo"]))
