"""What the benchmark must find: a lost, repeated or wrong output, whoever made it, and who is faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from benchmarks import events, plots, race, saturation, work
from benchmarks.__main__ import SECTIONS
from benchmarks.contestants.lineup import CachedStreamer, Job, Module, Peer, Streamer, fused, named
from benchmarks.events import BROKEN_AT, PARTITIONS, Wanted, broken, synthetic, whole
from benchmarks.race import Run, Sample
from benchmarks.servers import Cluster
from benchmarks.turns import Entry, absent, take_turns
from benchmarks.verdict import FOREIGN, Columns, Verdict, judge, number_of, total
from benchmarks.workers import Tabular, Text
from tests.services import ServiceError

WANTED = Wanted(
    range(100, 108),
    np.array([False] * 6 + [True, False]),  # 106 is broken
    np.linspace(0.1, 0.8, 8),
    np.arange(8),
)
VALID = [100, 101, 102, 103, 104, 105, 107]

Change = Callable[[dict[str, list[Any]]], object]


def columns(change: Change = lambda columns: None, promises: bool = True) -> Columns:
    """Outputs that are right but for `change`."""
    made: dict[str, list[Any]] = {
        "numbers": list(VALID),
        "scores": [float(WANTED.scores[number - 100]) for number in VALID],
        "labels": [number - 100 for number in VALID],
        "partitions": [number % PARTITIONS for number in VALID],
        "dead": [106],
    }
    change(made)
    return Columns(**{**made, "dead": made["dead"] if promises else None})


def put(name: str, at: int, value: float) -> Change:
    return lambda columns: columns[name].__setitem__(at, value)


def append(number: int, score: float, label: int) -> Change:
    def change(columns: dict[str, list[Any]]) -> None:
        for name, value in zip(columns, (number, score, label, number % PARTITIONS), strict=False):
            columns[name].append(value)

    return change


def drop(at: int) -> Change:
    return lambda columns: [columns[name].pop(at) for name in ("numbers", "scores", "labels", "partitions")]


def swap(columns: dict[str, list[Any]]) -> None:
    """101 and 105 are of one partition."""
    for name in ("numbers", "scores", "labels"):
        columns[name][1], columns[name][5] = columns[name][5], columns[name][1]


def test_what_is_right_has_no_fault():
    assert judge(columns(), WANTED) == Verdict(8, 0, 0, 0, 0, 0)
    assert judge(columns(promises=False), WANTED).faults == 0
    assert judge(columns(put("scores", 0, 0.1 + 9e-6)), WANTED).faults == 0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (drop(3), "lost"),
        (lambda columns: columns["dead"].clear(), "lost"),
        (append(107, 0.8, 7), "duplicated"),
        (lambda columns: columns["dead"].append(106), "duplicated"),
        (put("scores", 2, 0.30002), "wrong"),
        (put("scores", 2, float("nan")), "wrong"),
        (put("labels", 2, 9), "wrong"),
        (append(106, 0.7, 6), "wrong"),
        (lambda columns: columns["dead"].append(101), "wrong"),
        (append(108, 0.9, 8), "foreign"),
        (append(FOREIGN, 0.0, 0), "foreign"),
        (swap, "unordered"),
        (put("partitions", 0, 1), "unordered"),
    ],
)
def test_each_planted_fault_is_found(change: Change, fault: str):
    found = judge(columns(change), WANTED)
    assert getattr(found, fault) == 1
    assert found.faults == 1


@pytest.mark.parametrize(("change", "fault"), [(drop(3), "lost"), (append(103, 0.4, 3), "duplicated")])
def test_who_promises_less_must_still_lose_and_repeat_nothing(change: Change, fault: str):
    assert getattr(judge(columns(change, promises=False), WANTED), fault) == 1


def test_scores_that_are_not_known_are_not_compared():
    unknown = WANTED._replace(scores=None, labels=None)
    assert judge(columns(put("scores", 0, 9.0)), unknown).faults == 0
    assert judge(columns(drop(0)), unknown).lost == 1


def test_verdicts_add_up_and_say_when_nothing_was_checked():
    assert str(total([Verdict(8, 1, 0, 2, 0, 0), Verdict(8, 0, 3, 0, 1, 1)])) == "1 / 3 / 4"
    assert str(Verdict(0, 0, 0, 0, 0, 0)) == "not checked"


def test_an_id_that_is_no_number_is_foreign():
    assert (number_of("000000012"), number_of(b"7")) == (12, 7)
    assert number_of("other") == number_of(b"") == number_of(None) == number_of("-1") == FOREIGN


@pytest.mark.parametrize("name", ["tabular", "text"])
def test_work_answers_in_order_and_gives_nothing_for_what_is_broken(name: str):
    contents = events.tabular() if name == "tabular" else events.text(64)
    feed = synthetic(contents)
    numbers = range(BROKEN_AT - 5, BROKEN_AT + 6)
    outputs = work.make(name).run([feed.record(number)[1] for number in numbers])
    wanted = feed.wanted(numbers)
    assert [output is None for output in outputs] == wanted.broken.tolist()
    said = [msgspec.json.decode(output, type=work.Output) for output in outputs if output]
    valid = ~wanted.broken
    assert [int(one.event_id) for one in said] == [number for number in numbers if number != BROKEN_AT]
    assert [one.score for one in said] == pytest.approx(wanted.scores[valid].tolist(), abs=1e-6)
    assert [one.label for one in said] == wanted.labels[valid].tolist()


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("name", ["tabular", "text"])
def test_every_kind_of_broken_event_is_broken(name: str, kind: int):
    feed = synthetic(events.tabular() if name == "tabular" else events.text(64))
    assert work.make(name).run([broken(feed.record(1)[1], kind)]) == [None]


def test_no_work_by_another_name():
    with pytest.raises(ValueError, match="tabular, flat, text"):
        work.make("audio")


def test_a_label_never_hangs_on_a_rounding_error():
    for contents in (events.tabular(), events.flat()):
        assert np.abs(contents.scores - 0.5).min() > 1e-5


def test_picks_decide_what_an_event_says_and_must_get():
    contents = events.tabular()
    feed = synthetic(contents, np.array([5, 9, 5]))
    assert feed.wanted(range(3)).scores.tolist() == contents.scores[[5, 9, 5]].tolist()
    rows = [json.loads(feed.record(number)[1])["features"] for number in range(3)]
    assert rows[0] == rows[2] != rows[1]


def test_unpadded_batches_hold_every_text_once_and_no_padding():
    rows = [work.word_ids(text) for text in events.texts(200)]
    batches = list(events.unpadded(rows, 100))
    assert sorted(place for places, _ in batches for place in places) == list(range(200))
    assert all((words != 0).all() and words.numel() <= 100 for _, words in batches)


def test_counts_fill_all_partitions_alike():
    assert [whole(count) for count in (0, 1, 4, 4.5)] == [0, 4, 4, 8]


class Step(NamedTuple):
    verdict: Verdict


def test_turns_alternate_and_go_on_without_who_fails():
    log: list[str] = []

    def run(name: str, fails_at: int = 9) -> Step:
        log.append(name)
        if log.count(name) == fails_at:
            raise ServiceError("it ended\nwith its last words")
        return Step(Verdict(1, 0, 0, 1, 0, 0))

    entries = [
        Entry("a", lambda: run("a")),
        Entry("b", lambda: run("b", fails_at=2)),
        Entry("c", lambda: run("c"), "not installed: make peers"),
    ]
    found = take_turns(entries, 3)
    assert log == ["a", "b", "a", "b", "a"]
    assert [len(one.runs) for one in found] == [3, 1, 0]
    assert [one.faults for one in found] == [3, 2, 0]
    assert absent(found) == ["b: failed: with its last words", "c: not installed: make peers"]


def a_run(events_per_s: float) -> Run:
    return Run(events_per_s, 5.0, 600.0, 0.0, 0.1, Verdict(10, 0, 0, 0, 0, 0))


def test_the_table_has_medians_ranges_shares_and_who_is_missing():
    limit, slow, gone = take_turns(
        [
            Entry("limit", iter([a_run(100), a_run(300), a_run(200)]).__next__),
            Entry("slow", lambda: a_run(50)),
            Entry("gone", lambda: a_run(1), "not installed: make peers"),
        ],
        3,
    )
    lines = race.summary([limit, slow, gone], limit).splitlines()
    assert "| 200 (100 to 300) |" in lines[2]
    assert "| 0.25 " in lines[3]
    assert lines[4] == "gone: not installed: make peers"


def test_a_speed_goal_is_held_against_the_median_of_the_same_run():
    limit, ours = take_turns([Entry("limit", lambda: a_run(100)), Entry("ours", lambda: a_run(64))], 1)
    assert race.speed(ours) / race.speed(limit) < saturation.LIMIT_MIN


def test_cpu_is_per_thousand_events_without_the_first_and_last_tenth():
    samples = [Sample(0, 1.5, 0), Sample(1_000, 2.0, 0), Sample(2_000, 2.1, 0), Sample(8_000, 2.7, 0)]
    assert race.cpu_ms([*samples, Sample(10_000, 9.0, 0)], 10_000) == pytest.approx(100)


def test_cpu_of_too_short_a_stretch_is_not_said():
    assert np.isnan(race.cpu_ms([Sample(1_000, 2.0, 0), Sample(5_000, 2.4, 0)], 10_000))
    assert np.isnan(race.cpu_ms([], 10_000))


def job(folder: Path) -> Job:
    return Job(Cluster("host:1", "redis://host:2"), "in", "out", "group", folder)


def words(child: Any) -> list[str]:
    return child._command


def test_a_contestant_is_told_where_from_where_to_and_which_guarantee(tmp_path: Path):
    said = words(fused("text", "exactly_once", 10, 1).start(job(tmp_path)))
    assert said[1:3] == ["-m", "benchmarks.contestants.fused"]
    pairs = dict(zip(said[3::2], said[4::2], strict=True))
    assert pairs == {
        "--bootstrap": "host:1",
        "--source": "in",
        "--target": "out",
        "--group": "group",
        "--work": "text",
        "--delivery": "exactly_once",
        "--commit-ms": "10",
    }


def test_streamer_runs_the_worker_of_the_benchmark_with_its_settings(tmp_path: Path):
    said = words(Streamer("ours", Text, "at_least_once", 1, {"batch.cost_max": "1000"}).start(job(tmp_path)))
    assert said[1:3] == ["run", named(Text)]
    assert named(Tabular).endswith("benchmarks/workers.py:Tabular")
    assert {"delivery=at_least_once", "kafka.group_id=group", "batch.cost_max=1000"} < set(said)
    assert not any("cache" in word for word in said)


def test_a_cached_run_finds_nothing_of_the_run_before(tmp_path: Path):
    said = words(CachedStreamer("ours", Text, "at_least_once", 1).start(job(tmp_path)))
    secret = tmp_path / "cache.secret"
    assert {"cache.url=redis://host:2", f"cache.secret_file={secret}"} < set(said)
    assert secret.read_text() == "group"


def test_every_run_of_a_module_has_a_topic_of_its_own():
    module = Module("x", "x", "text", 1)
    assert module.target() != module.target()


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.peers.python_of", lambda name: None)
    assert Peer("faust", "tabular", 1).missing() == "not installed: make peers"


def test_sections_have_names_to_choose_by():
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(not plots.available(), reason=f"no matplotlib: {plots.INSTALL}")
def test_charts_are_drawn(tmp_path: Path):
    bars = plots.Bars("bars", "Speed", "events/s", {"a": [1.0, 3.0, 2.0], "b": [2000.0]})
    lines = plots.Lines("lines", "Memory", "events", "MiB", {"a": [(1, 2.0), (10, 3.0)]})
    assert [plots.draw(chart, tmp_path / "new").name for chart in (bars, lines)] == ["bars.svg", "lines.svg"]
