"""The meaning of the figures in words, and the settings that did better in a trial. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from streamer.bench.measure import WAITS, Bound, Window
from streamer.bench.proposals import COMMIT_SHARE, Facts, Suggestion, Trial
from streamer.demo.summary import number

COMMENT_WIDTH = 76
NO_BASE = "not tried: a trial needs a run of this load (--saturate or --rate) of over a second"
HEADROOM = 0.7
"""The share of its speed to plan a replica for: the rest lets it catch up after a stop."""
SENT = 0.95
"""The share of the asked rate that the sender must reach; below it, the figures are of another rate."""


class Advice(msgspec.Struct, frozen=True):
    """The bottleneck of the worker with a backlog (None: not known), the meaning of the figures, and settings."""

    bound: Bound | None
    means: Sequence[str]
    settings: Sequence[Suggestion]


def advise(facts: Facts, untried: Sequence[Suggestion], trials: Sequence[Trial]) -> Advice:
    """All that follows from the facts and the trials."""
    return Advice(
        bound=facts.held,
        means=[
            *_short(facts),
            *_meaning(facts),
            *_sender(facts),
            *_replicas(facts),
            *_delivery(facts),
            *(f"Tried {one.suggestion}: {one.said}; not suggested." for one in trials if not one.suggestion.ready),
        ],
        settings=[
            *(_with(one.suggestion, f"tried: {one.said}") for one in trials if one.suggestion.ready),
            *(_with(one, "not tried" if one.aim is None else NO_BASE) for one in untried),
        ],
    )


def _with(suggestion: Suggestion, said: str) -> Suggestion:
    return msgspec.structs.replace(suggestion, why=f"{suggestion.why}; {said}")


def toml(suggestions: Sequence[Suggestion]) -> str:
    """Lines to paste into streamer.toml; empty when there is nothing to change."""
    lines = []
    parted = sorted(suggestions, key=lambda one: _table(one.key))  # keys without a table come first, as TOML requires
    for table, group in groupby(parted, key=lambda one: _table(one.key)):
        lines += ["", f"[{table}]"] if table else []
        for one in group:
            assignment = f"{one.key.rpartition('.')[2]} = {one.value}"
            lines += textwrap.wrap(one.why, COMMENT_WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines.append(assignment if one.ready else f"# {assignment}")
    return "\n".join(lines).strip()


def _table(key: str) -> str:
    return key.rpartition(".")[0]


def _short(facts: Facts) -> Iterator[str]:
    for run in facts.runs:
        if run.short:
            yield f"{run.name}: too short to tell much; take more --events or --seconds."


def _meaning(facts: Facts) -> Iterator[str]:
    """The bottleneck of the worker, and whether more replicas help."""
    window = facts.backlog.window if facts.backlog else None
    if facts.held is None or window is None:
        return
    owner = f"the owner's thread worked {window.busy('owner'):.0%} of the time ({_most(window, 'owner')})"
    runner = f"the model's thread worked {window.busy('runner'):.0%} of the time ({_most(window, 'runner')})"
    match facts.held:
        case Bound.DEVICE if facts.gpu:
            yield f"Bound by the GPU: {runner}; another GPU helps, a second replica on this one hardly does."
        case Bound.DEVICE:
            yield f"Bound by the model: {runner}; {_more_replicas(facts)}"
        case Bound.OWNER:
            yield f"Bound by reading and publishing: {owner}; {_more_replicas(facts)}"
        case Bound.MACHINE:
            yield (
                f"Bound by this machine, whose {facts.cores} cores were all busy: {owner}, {runner}, and this "
                "time includes waits for a core. Replicas on other machines help; other programs here count as well."
            )
        case Bound.BROKER:
            yield f"Bound by the broker, for which the worker waits: {owner}, {runner}; replicas hardly help."
    if window.cores is not None and window.machine_busy is not None:
        others = max(0.0, window.machine_busy * facts.cores - window.cores)
        yield f"The worker kept {window.cores:.1f} of {facts.cores} cores busy, other programs {others:.1f}."


def _more_replicas(facts: Facts) -> str:
    return f"more replicas help while cores are free, up to the {facts.partitions} partitions."


def _replicas(facts: Facts) -> Iterator[str]:
    speed = facts.backlog.events_per_s if facts.backlog else None
    for run in facts.runs:
        if run.rate is None or run.kept_up:
            continue
        answered = f"{run.events_per_s or 0:,.0f} answered/s"
        behind = f"At {run.name} one replica falls behind ({answered}): its latency says only how long the run was."
        wanted = math.ceil(run.rate / speed / HEADROOM) if speed else 0
        cure = f" At {HEADROOM:.0%} of a backlog's speed each, it takes {wanted} replicas, and as many partitions."
        yield behind + (cure if speed else "")


def _sender(facts: Facts) -> Iterator[str]:
    for run in facts.runs:
        if run.rate is not None and run.sent_per_s is not None and run.sent_per_s < SENT * run.rate:
            yield f"At {run.name} the sender of this run reached only {run.sent_per_s:,.0f}/s: its core is the limit."


def _delivery(facts: Facts) -> Iterator[str]:
    if facts.settings.delivery != "exactly_once":
        return
    for run in facts.runs:
        if run.latency is None or run.window is None or not run.window.commit_ms or not run.kept_up:
            continue
        if run.window.commit_ms >= COMMIT_SHARE * run.latency.p50:
            yield (
                f"At {run.name} a transaction takes {run.window.commit_ms:.0f} ms of p50 {run.latency.p50:.0f} ms, "
                "which is the price of exactly-once; --delivery at_least_once measures without."
            )
            return


def _most(window: Window, thread: str) -> str:
    """The stages in which a thread works the longest."""
    worked = [one for one in window.stages if one.thread == thread and one.stage not in WAITS]
    worked.sort(key=lambda one: -one.share)
    return ", ".join(f"{one.stage} {number(one.us_per_event)} µs an event" for one in worked[:2])
