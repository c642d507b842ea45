"""Which settings follow from what was measured, and in which words."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest

from streamer.bench.advice import Advice, advise, toml
from streamer.bench.curve import Curve, Point
from streamer.bench.load import Run
from streamer.bench.measure import Batches, Bound, Latency, Stage, Window
from streamer.bench.outcomes import Counts
from streamer.bench.proposals import Aim, Facts, Suggestion, base_of, judge, propose
from streamer.settings import Settings

COUNTS = Counts(
    sent=100, predicted=95, cached=40, dead=2, skipped=3, repeated=0, unordered=0, dead_reasons={"invalid": 2}
)
WINDOW = Window(
    seconds=2.0,
    events=20_000,
    cpu_us=50.0,
    machine_busy=0.6,
    stages=[
        Stage("owner", "poll", 70.0, 0.7),
        Stage("owner", "commit", 30.0, 0.3),
        Stage("runner", "predict", 90, 0.9),
    ],
    batches=[Batches("full", 20, 1_000.0)],
    batch_wait_ms=10.0,
    batch_ms=40.0,
    commits=40,
    commit_ms=10.0,
)
BACKLOG = Run(
    rate=None,
    counts=COUNTS,
    events_per_s=10_000.0,
    sent_per_s=None,
    latency=None,
    window=WINDOW,
    rss_mib=400.0,
    load=1.0,
    short=False,
)
AT_RATE = msgspec.structs.replace(
    BACKLOG, rate=1_000.0, events_per_s=1_000.0, sent_per_s=1_000.0, latency=Latency(30.0, 60.0, 90.0)
)
CURVE = Curve(
    points=[Point(1, 1, 1.0, 1_000), Point(2, 2, 1.1, 1_900), Point(4, 4, 2.0, 1_980), Point(8, 8, 4.2, 1_940)],
    fixed_ms=0.9,
    us_per_cost=100.0,
    varied=False,
    rejected=0.0,
    stopped=False,
)
FACTS = Facts(settings=Settings(), curve=CURVE, runs=[BACKLOG, AT_RATE], repeats=None, partitions=4, gpu=False, cores=2)


def advised(**changed: Any) -> Advice:
    facts = msgspec.structs.replace(FACTS, **changed)
    return advise(facts, propose(facts), [])


def keys(**changed: Any) -> dict[str, str]:
    return {one.key: one.value for one in propose(msgspec.structs.replace(FACTS, **changed))}


def run_like(run: Run, **changed: Any) -> Run:
    return msgspec.structs.replace(run, window=msgspec.structs.replace(WINDOW, **changed))


def test_batches_are_as_large_as_they_pay() -> None:
    assert keys()["batch.items_max"] == "2"
    assert keys(curve=msgspec.structs.replace(CURVE, varied=True))["batch.cost_max"] == "2"
    assert "batch.items_max" not in keys(settings=Settings(batch={"items_max": 2}))
    rising = msgspec.structs.replace(CURVE, points=CURVE.points[:2])  # the largest that was tried is the best
    assert "batch.items_max" not in keys(curve=rising)


def test_a_goal_is_for_answers_that_wait_for_batches() -> None:
    assert keys()["batch.latency_goal_ms"] == "60"
    assert "batch.latency_goal_ms" not in keys(runs=[run_like(AT_RATE, batch_ms=1.0, batch_wait_ms=1.0)])
    assert "batch.latency_goal_ms" not in keys(settings=Settings(batch={"latency_goal_ms": 20}))
    assert "batch.latency_goal_ms" not in keys(runs=[msgspec.structs.replace(AT_RATE, events_per_s=500.0)])


def test_the_commit_interval_follows_from_how_long_commits_take() -> None:
    assert "commit_interval_ms" not in keys()
    slow = run_like(BACKLOG, commits=20, commit_ms=80.0, stages=[], machine_busy=0.2)
    assert keys(runs=[slow])["commit_interval_ms"] == "320"
    waited = run_like(AT_RATE, seconds=2.0, commits=18, commit_ms=10.0)
    assert keys(runs=[waited])["commit_interval_ms"] == "20"
    assert "commit_interval_ms" not in keys(runs=[slow, waited], settings=Settings(delivery="at_least_once"))


def test_a_redis_is_named_but_cannot_be_tried() -> None:
    found = advised(repeats=0.4)
    redis = next(one for one in found.settings if one.key == "cache.url")
    assert (redis.ready, base_of(redis, FACTS)) == (False, None)
    assert redis.why.endswith("; not tried")
    assert "cache.url" not in keys(repeats=0.1)
    assert "cache.url" not in keys(repeats=0.4, settings=Settings(cache={"url": "redis://localhost"}))


def test_a_setting_is_held_against_the_run_that_speaks_for_it() -> None:
    batch, goal = propose(FACTS)
    assert (batch.key, base_of(batch, FACTS)) == ("batch.items_max", BACKLOG)
    assert (goal.key, base_of(goal, FACTS)) == ("batch.latency_goal_ms", AT_RATE)
    short = msgspec.structs.replace(FACTS, runs=[msgspec.structs.replace(BACKLOG, short=True), AT_RATE])
    assert base_of(batch, short) is None
    assert base_of(batch, msgspec.structs.replace(FACTS, runs=[AT_RATE])) is None


@pytest.mark.parametrize(
    ("aim", "per_s", "p99", "good"),
    [
        (Aim.AS_FAST, 9_800.0, 90.0, True),
        (Aim.AS_FAST, 9_600.0, 90.0, False),
        (Aim.FASTER, 10_600.0, 90.0, True),
        (Aim.FASTER, 10_400.0, 90.0, False),
        (Aim.SOONER, 1_000.0, 80.0, True),
        (Aim.SOONER, 1_000.0, 85.0, False),
        (Aim.SOONER, 900.0, 80.0, False),
    ],
)
def test_a_setting_stays_only_if_its_trial_has_shown_it(aim: Aim, per_s: float, p99: float, good: bool) -> None:
    before = AT_RATE if aim is Aim.SOONER else BACKLOG
    after = msgspec.structs.replace(before, events_per_s=per_s, latency=Latency(30.0, 60.0, p99))
    trial = judge(Suggestion("batch.items_max", "8", "why", aim, before.rate), before, after)
    assert trial.suggestion.ready == good
    found = advise(FACTS, [], [trial])
    assert [one.why for one in found.settings] == ([f"why; tried: {trial.said}"] if good else [])
    assert (f"Tried batch.items_max = 8: {trial.said}; not suggested." in found.means) != good
    assert ("events/s with the backlog, and 10,000 without" in trial.said) == (aim is not Aim.SOONER)
    assert ("ms at 1,000/s, and 90 without" in trial.said) == (aim is Aim.SOONER)


def test_what_holds_it_and_what_helps_is_said_in_words() -> None:
    said = advised()
    assert said.bound is Bound.DEVICE
    assert said.means[0].startswith("Bound by the model: the model's thread worked 90% of the time (predict 90 µs")
    assert "The worker kept 0.5 of 2 cores busy, other programs 0.7." in said.means
    assert "another GPU" in advised(gpu=True).means[0]
    short = advised(runs=[msgspec.structs.replace(BACKLOG, short=True)])
    told = "backlog: too short to tell much; take more --events or --seconds."
    assert (short.bound, short.means) == (None, [told])
    behind = msgspec.structs.replace(AT_RATE, rate=20_000.0, sent_per_s=20_000.0, events_per_s=9_000.0)
    assert "it takes 3 replicas" in advised(runs=[BACKLOG, behind]).means[-1]
    slower = msgspec.structs.replace(AT_RATE, rate=5_000.0, sent_per_s=1_000.0)
    assert "the sender of this run reached only 1,000/s" in advised(runs=[slower]).means[0]
    costly = run_like(AT_RATE, commit_ms=20.0)
    assert "the price of exactly-once" in advised(runs=[costly]).means[-1]


def test_what_has_been_tried_can_be_pasted_and_the_rest_is_a_comment() -> None:
    facts = msgspec.structs.replace(FACTS, runs=[run_like(AT_RATE, seconds=2.0, commits=18)], repeats=0.4)
    found = [msgspec.structs.replace(one, ready=one.aim is not None) for one in propose(facts)]
    settings = Settings(**tomllib.loads(toml(found)))
    assert (settings.commit_interval_ms, settings.batch.items_max, settings.batch.latency_goal_ms) == (20, 2, 60)
    assert settings.cache.url is None
    assert tomllib.loads(toml(propose(facts))) == {"batch": {}, "cache": {}}
    assert all(len(line) <= 76 for line in toml(found).splitlines())
    assert toml([]) == ""
    assert toml([Suggestion("cache.url", '"x"', "why", None)]) == '[cache]\n# why\n# url = "x"'
