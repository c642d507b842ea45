"""The parts of `streamer bench` that need no process: what is sent, and what figures mean."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from prometheus_client import CollectorRegistry

from schemas import Prediction
from schemas import Source as Origin
from streamer.bench import curve, events, outcomes
from streamer.bench.broker import Places
from streamer.bench.measure import (
    Batches,
    Bound,
    Latency,
    Stage,
    bound,
    latency,
    speed,
    steady,
    window,
)
from streamer.bench.outcomes import Counts, Outcomes, waits_s
from streamer.bench.serving import Figures, Moment
from streamer.engine.loop import STAGES
from streamer.errors import BadData, Usage
from streamer.records import Skipped
from streamer.settings import Settings
from streamer.slices import Batch, BatchResult, Row
from streamer.telemetry.metrics import Metrics
from streamer.telemetry.stopwatch import Stopwatch
from streamer.wire import headers
from tests.echo import CachedEcho, Echo, ping
from tests.slices import rows
from tests.unit.bench.test_advice import COUNTS, CURVE, WINDOW
from workers.lead_scoring.worker import LeadScoring


def nothing(_: int) -> None:
    """Hears of progress."""


def moment(at: float, **figures: float) -> Moment:
    values = {("streamer_messages_produced_total", label): value for label, value in figures.items()}
    return Moment(at, Figures(values), at / 2, at, 300.0)


# figures


def test_percentiles_are_of_values_that_occurred() -> None:
    assert latency([]) is None
    assert latency([number / 1000 for number in range(1, 101)]) == Latency(50.0, 95.0, 99.0)


def test_speed_leaves_out_the_first_and_the_last_tenth() -> None:
    times = [0] * 10 + [1_000 + 10 * number for number in range(81)] + [9_000] * 9
    assert speed(times) == (100.0, 0.8)
    assert speed([5] * 100) is None
    assert speed([]) is None


def test_waits_begin_after_the_warm_up_and_end_with_an_answer() -> None:
    sent = {(0, 0): 10.0, (0, 1): 10.5, (1, 0): 11.0, (1, 1): 12.0}
    received = {(0, 0): 13.0, (0, 1): 11.0, (1, 0): 11.25}
    assert waits_s(sent, received, 1.0) == [0.25]
    assert waits_s({}, {}, 1.0) == []


def test_a_window_is_what_the_workers_own_metrics_say() -> None:
    registry = CollectorRegistry()
    metrics, clock = Metrics("echo", "v1", registry), iter([0.0, 0.0, 0.5, 2.0])
    watch = Stopwatch(lambda: next(clock), *STAGES)
    metrics.watch(watch)
    first = Moment(1.0, Figures.parse(metrics.text().decode()), 10.0, 20.0, None)
    watch.start()
    watch.lap("decode")
    watch.lap("commit")
    events = rows(0, 1, 2, 3)
    for at in range(3):
        Row(events.columns, at).settle(b"{}")
    Row(events.columns, 3).settle(Skipped())
    metrics.batch(BatchResult(Batch([events], "full", 4, 0.0), [], 0.25), 0.125)
    metrics.committed([events], 5, 0.02)
    found = window(first, Moment(5.0, Figures.parse(metrics.text().decode()), 11.0, 24.0, None), cores=2)
    assert found is not None
    assert (found.seconds, found.events, found.cpu_us, found.machine_busy) == (4.0, 4, 250_000.0, 0.5)
    spent = {(one.thread, one.stage): (one.us_per_event, one.share) for one in found.stages}
    assert spent == {("owner", "decode"): (125_000.0, 0.125), ("owner", "commit"): (375_000.0, 0.375)}
    assert found.batches == [Batches("full", 1, 4.0)]
    assert (found.batch_wait_ms, found.batch_ms, found.commits, found.commit_ms) == (125.0, 250.0, 1, 20.0)
    assert (found.busy("owner"), found.cores) == (0.5, 0.25)


def test_nothing_happened_is_no_window() -> None:
    assert window(moment(0.0), moment(1.0), cores=2) is None


def test_the_steady_part_is_the_middle_of_a_long_run_and_all_of_a_short_one() -> None:
    long = [moment(float(at), ok=float(10 * at)) for at in range(11)]
    assert steady(long, 100) == (long[1], long[9])
    short = [moment(0.0), moment(0.2), moment(0.4, ok=100.0), moment(0.6, ok=100.0)]
    assert steady(short, 100) == (short[1], short[2])
    assert steady(short[2:3], 100) == (short[2], short[2])


@pytest.mark.parametrize(
    ("owner", "runner", "machine", "gpu", "held"),
    [
        (0.3, 0.9, 0.6, False, Bound.DEVICE),
        (0.9, 0.3, 0.6, False, Bound.OWNER),
        (0.3, 0.9, 0.95, False, Bound.MACHINE),
        (0.3, 0.9, 0.95, True, Bound.DEVICE),
        (0.3, 0.3, 0.6, False, Bound.BROKER),
        (0.3, 0.9, None, False, Bound.DEVICE),
    ],
)
def test_what_holds_a_worker(owner: float, runner: float, machine: float | None, gpu: bool, held: Bound) -> None:
    stages = [
        Stage("owner", "poll", 1, 0.99),
        Stage("owner", "decode", 1, owner),
        Stage("runner", "predict", 1, runner),
    ]
    assert bound(msgspec.structs.replace(WINDOW, stages=stages, machine_busy=machine), gpu) == held


def test_counts_that_break_a_promise() -> None:
    assert COUNTS.faults("exactly_once") == []
    wrong = msgspec.structs.replace(COUNTS, sent=101, repeated=2, unordered=1)
    assert wrong.faults("exactly_once") == [
        "1 events have no outcome",
        "2 outcomes came more than once",
        "1 predictions came out of order",
    ]
    assert msgspec.structs.replace(COUNTS, repeated=2).faults("at_least_once") == []
    assert msgspec.structs.replace(COUNTS, sent=90).faults("at_least_once") == [
        "10 outcomes belong to no event that was sent"
    ]


class Message:
    """What a consumer hands out: the outcome of one event."""

    def __init__(self, topic: str, offset: int, dead: bool, at_ms: int) -> None:
        self._topic, self._offset, self._dead, self._at_ms = topic, offset, dead, at_ms

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self._topic

    def timestamp(self) -> tuple[int, int]:
        return 1, self._at_ms

    def headers(self) -> list[tuple[str, bytes]]:
        place = {headers.DLQ_TOPIC: "s", headers.DLQ_PARTITION: "0", headers.DLQ_OFFSET: str(self._offset)}
        return [(name, text.encode()) for name, text in {**place, headers.REASON: "invalid"}.items()]

    def value(self) -> bytes:
        envelope = Prediction[Any].model_construct(
            source=Origin(topic="s", partition=0, offset=self._offset), cache="hit"
        )
        return envelope.model_dump_json(include={"source", "cache"}).encode()


class Consumer:
    """Hands out what it is made with."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)

    def assign(self, partitions: object) -> None:
        """Nothing to do."""

    def consume(self, most: int, timeout_s: float) -> list[Message]:
        taken, self.messages = self.messages[:most], self.messages[most:]
        return taken


def test_outcomes_are_counted_once_and_their_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places("s", "t", "g", 1)
    said = [("t", 0), ("t", 2), ("t", 1), ("t", 1), (places.dead, 3)]
    messages = [Message(topic, offset, topic != "t", 100 + at) for at, (topic, offset) in enumerate(said)]
    monkeypatch.setattr(outcomes.clients, "consumer", lambda *_, **__: Consumer(messages))
    found = Outcomes(Settings(), places)
    assert found.read(0.1) == 5
    assert found.counts(sent=6, skipped=1) == Counts(
        sent=6, predicted=3, cached=3, dead=1, skipped=1, repeated=1, unordered=1, dead_reasons={"invalid": 1}
    )
    assert found.counts(6, 1).lost == 1
    assert found.times_ms == [100, 101, 102, 104]
    assert set(found.received_s) == {(0, 0), (0, 1), (0, 2), (0, 3)}


# events


def test_samples_have_ids_of_the_run_and_the_worker_says_what_they_are() -> None:
    feed = events.samples(LeadScoring(), "run")
    assert feed.said == "samples of the worker"
    looked = events.look(LeadScoring(), feed)
    assert looked.repeats is not None
    assert 0.2 < looked.repeats < 0.6
    assert looked.bytes_mean > 200
    told: list[int] = []
    pairs = feed.take(1_200, told.append)
    assert told == [500, 500]
    ids = [event.made.event_id for event in looked.events] + [json.loads(value)["event_id"] for _, value in pairs]
    assert ids == [f"run-{number}" for number in range(3_200)]
    alone = events.samples(Echo(), "run")
    assert "no sample()" in alone.said
    assert len(events.look(Echo(), alone).events) == 1


def test_lines_of_a_file_are_sent_as_they_are_broken_ones_too(tmp_path: Path) -> None:
    lines = [ping(number).model_dump_json().encode() for number in range(3)] + [b"broken", b"", b" "]
    for name, data in (("a.jsonl", b"\n".join(lines)), ("a.jsonl.gz", gzip.compress(b"\n".join(lines)))):
        (tmp_path / name).write_bytes(data)
        feed = events.lines(CachedEcho(), tmp_path / name)
        assert "4 lines, 1 of them broken" in feed.said
        assert feed.take(6, nothing) == [
            *[(b"one", line) for line in lines[:3]],
            (b"line-4", b"broken"),
            *[(b"one", line) for line in lines[:2]],
        ]
        looked = events.look(CachedEcho(), feed)
        assert (len(looked.events), looked.repeats) == (4, 0.0)  # to send them again is no repeat of theirs


@pytest.mark.parametrize(
    ("data", "told"), [(b"", "no line of it"), (b"{}", "no line of it"), (b"\x1f\x8bx", "be read")]
)
def test_a_file_without_an_event_is_refused(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(BadData, match=told):
        events.lines(Echo(), tmp_path / "a.jsonl")
    with pytest.raises(Usage, match="no such file"):
        events.lines(Echo(), tmp_path / "b.jsonl")


# the batch curve


@pytest.mark.parametrize("lengths", [[1], [2, 40]])
def test_the_curve_runs_batches_of_each_size_of_what_the_worker_takes(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr(curve, "SIZE_S", 0.0)
    worker, told = Echo(), []
    inference = curve.load(worker, Settings(), torch.device("cpu"))
    made = [ping(number, length=lengths[number % len(lengths)]) for number in range(40)]
    made += [ping(40, fault="skip"), ping(41, fault="nan")]
    sent = [events.Event(event.key.encode(), event.model_dump_json().encode(), event) for event in made]
    worker.runs.clear()
    found = curve.measure(worker, inference, [*sent, events.Event(b"k", b"broken", None)], told.append)
    assert [point.items for point in found.points] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert {len(run) for run in worker.runs} >= {1, 2, 1024}
    assert not any(40 in run for run in worker.runs)
    assert len(told) == 11
    assert found.varied == (len(lengths) > 1)
    assert found.rejected == pytest.approx(1 / 41)
    assert found.points[0].cost == pytest.approx(sum(lengths) / len(lengths), rel=0.5)
    assert found.knee.items <= found.best.items


def test_the_curve_stops_where_batches_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "SIZE_S", 0.0)
    monkeypatch.setattr(curve, "BATCH_S_MAX", 0.0)
    inference = curve.load(Echo(), Settings(), torch.device("cpu"))
    event = events.Event(b"k", ping(1).model_dump_json().encode(), None)
    found = curve.measure(Echo(), inference, [event], nothing)
    assert ([point.items for point in found.points], found.stopped) == ([1], True)
    with pytest.raises(BadData, match="takes none"):
        curve.measure(Echo(), inference, [events.Event(b"k", b"broken", None)], nothing)


def test_the_knee_is_the_smallest_size_near_the_best() -> None:
    assert (CURVE.best.items, CURVE.knee.items) == (4, 2)
