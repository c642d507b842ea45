"""Settings that may do better, by the measurements; each is then tried and kept only if it does. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from streamer.bench.curve import Curve
from streamer.bench.load import Run
from streamer.bench.measure import Bound, bound
from streamer.settings import Settings

REPEATS_MIN = 0.2
"""A shared cache is proposed when this share of events repeats an earlier one."""
BATCH_SHARE = 0.5
"""When waiting for a batch and running it take this share of p99 or more, smaller batches would help."""
COMMIT_SHARE = 0.5
"""When a transaction is open for this share of the time or more, the broker has little rest between transactions."""
COMMITS_GATHERED = 4
"""A transaction that gathers for so many times what it takes leaves the broker three quarters of the time."""
INTERVAL_MS_MIN = 10


class Aim(StrEnum):
    """The aim of a setting, which its trial must show."""

    AS_FAST = "as fast"
    FASTER = "faster"
    SOONER = "sooner"


AT_LEAST = {Aim.AS_FAST: 0.97, Aim.FASTER: 1.05}
"""The least share of the speed without the setting."""
AT_MOST = 0.9
"""The largest share of the p99 without the setting."""


class Suggestion(msgspec.Struct, frozen=True):
    """A setting by its dotted key, its value in TOML, and the reason. `aim` is what it must show, with a backlog or at
    `rate` (events/s); None: it cannot be tried. `ready` is true once a trial has shown it."""

    key: str
    value: str
    why: str
    aim: Aim | None
    rate: float | None = None
    ready: bool = False

    def __str__(self) -> str:
        return f"{self.key} = {self.value}"


class Trial(msgspec.Struct, frozen=True):
    """A run like an earlier one except for this setting, and its result in words."""

    suggestion: Suggestion
    run: Run
    said: str


class Facts(msgspec.Struct, frozen=True):
    """The basis of advice. `repeats` is the share of events whose cache key came before; `partitions` are the
    source's; `gpu` says that the model ran on a GPU; `cores` are the machine's."""

    settings: Settings
    curve: Curve
    runs: Sequence[Run]
    repeats: float | None
    partitions: int
    gpu: bool
    cores: int

    @property
    def backlog(self) -> Run | None:
        """The run with a backlog, if there was one that was long enough."""
        return next((run for run in self.runs if run.rate is None and not run.short), None)

    @property
    def held(self) -> Bound | None:
        """The bottleneck of the worker with a backlog; None: not known."""
        return bound(self.backlog.window, self.gpu) if self.backlog and self.backlog.window else None


def propose(facts: Facts) -> list[Suggestion]:
    """All settings that may do better."""
    return [*_commit_interval(facts), *_batch(facts), *_goal(facts), *_cache(facts)]


def base_of(suggestion: Suggestion, facts: Facts) -> Run | None:
    """The run to compare a trial of this with; None when it cannot be tried, or no such run was long enough."""
    if suggestion.aim is None:
        return None
    return next((run for run in facts.runs if run.rate == suggestion.rate and not run.short), None)


def judge(suggestion: Suggestion, before: Run, after: Run) -> Trial:
    """Whether a setting reached its aim, by the same load before and after."""
    if suggestion.aim is Aim.SOONER:
        old_ms, new_ms = (run.latency.p99 if run.latency else math.inf for run in (before, after))
        good = after.kept_up and new_ms <= AT_MOST * old_ms
        said = f"p99 {new_ms:,.0f} ms at {before.name}, and {old_ms:,.0f} without"
    else:
        assert suggestion.aim
        old, new = before.events_per_s or 0.0, after.events_per_s or 0.0
        good = new >= AT_LEAST[suggestion.aim] * old
        said = f"{new:,.0f} events/s with the backlog, and {old:,.0f} without"
    return Trial(msgspec.structs.replace(suggestion, ready=good), after, said)


def _batch(facts: Facts) -> Iterator[Suggestion]:
    """The knee of the batch curve; by cost where costs vary, because a batch then holds more short events."""
    curve, batch = facts.curve, facts.settings.batch
    knee, best = curve.knee, curve.best
    reach = "the fastest size"
    if best is not knee:
        reach = f"no larger batch is over 5 % faster ({best.events_per_s:,.0f}/s at {best.items:,})"
    if curve.varied:
        cost = _rounded_up(knee.cost)
        if batch.cost_max is None or not cost / 1.5 <= batch.cost_max <= cost * 1.5:
            what = f"{knee.items:,} events of all lengths: {knee.events_per_s:,.0f}/s, {knee.ms:.1f} ms a batch"
            yield Suggestion("batch.cost_max", str(cost), f"{what}; {reach}", Aim.AS_FAST)
    elif knee.items != min(batch.items_max, curve.points[-1].items):
        what = f"{knee.events_per_s:,.0f}/s, {knee.ms:.1f} ms a batch"
        yield Suggestion("batch.items_max", str(knee.items), f"{what}; {reach}", Aim.AS_FAST)


def _goal(facts: Facts) -> Iterator[Suggestion]:
    """A goal for the first rate whose slowest answers wait for large batches."""
    if facts.settings.batch.latency_goal_ms is not None:
        return
    for run in facts.runs:
        if run.latency is None or run.window is None or not run.kept_up:
            continue
        batch_ms = (run.window.batch_wait_ms or 0.0) + (run.window.batch_ms or 0.0)
        goal_ms = _rounded_up(2 * run.latency.p50)
        if batch_ms >= BATCH_SHARE * run.latency.p99 and goal_ms < run.latency.p99:
            why = (
                f"at {run.name} waiting for a batch and running it took {batch_ms:.0f} ms, and p99 was "
                f"{run.latency.p99:.0f}: this goal, twice p50, keeps batches of fresh events small enough for it"
            )
            yield Suggestion("batch.latency_goal_ms", str(goal_ms), why, Aim.SOONER, run.rate)
            return


def _commit_interval(facts: Facts) -> Iterator[Suggestion]:
    """Longer where a backlog waits for commits, shorter where the answers at a rate wait for the interval."""
    interval_ms = facts.settings.commit_interval_ms
    if facts.settings.delivery != "exactly_once":
        return
    backlog = facts.backlog.window if facts.backlog else None
    if backlog and backlog.commit_ms and facts.held is Bound.BROKER:
        open_share = backlog.commits * backlog.commit_ms / 1000 / backlog.seconds
        wanted = _rounded_up(COMMITS_GATHERED * backlog.commit_ms)
        if open_share >= COMMIT_SHARE and wanted > interval_ms:
            why = (
                f"with a backlog a transaction took {backlog.commit_ms:.0f} ms and was open {open_share:.0%} of the "
                "time: larger ones are fewer; answers at a high rate then wait longer"
            )
            yield Suggestion("commit_interval_ms", str(wanted), why, Aim.FASTER)
            return
    for run in facts.runs:
        if run.latency is None or run.window is None or not run.window.commit_ms or not run.kept_up:
            continue
        cycle_ms = run.window.seconds * 1000 / run.window.commits
        wanted = max(INTERVAL_MS_MIN, _rounded_up(2 * run.window.commit_ms))
        if cycle_ms >= 0.8 * (interval_ms + run.window.commit_ms) and wanted < 0.8 * interval_ms:
            why = (
                f"at {run.name} a commit came each {cycle_ms:.0f} ms and took {run.window.commit_ms:.0f}: answers "
                "waited for the interval; this is twice a commit"
            )
            yield Suggestion("commit_interval_ms", str(wanted), why, Aim.SOONER, run.rate)
            return


def _cache(facts: Facts) -> Iterator[Suggestion]:
    if facts.settings.cache.url is not None or facts.repeats is None or facts.repeats < REPEATS_MIN:
        return
    counts = facts.runs[0].counts
    near = counts.cached / counts.predicted if counts.predicted else 0.0
    why = (
        f"{facts.repeats:.0%} of the events repeat an earlier one, and this process alone answered {near:.0%} from "
        "its memory; a Redis shares the answers between replicas"
    )
    yield Suggestion("cache.url", '"rediss://USER:PASSWORD@HOST:6379/0"', why, None)


def _rounded_up(value: float) -> int:
    """Rounded up to two significant digits."""
    step: int = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / step) * step
