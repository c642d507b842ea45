"""Measures that are derived from the raw figures of a run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from streamer.bench.serving import Figures, Moment
from streamer.demo.tally import percentile
from streamer.engine.loop import STAGES

RUNNER = ("encode", "predict", "answer")
"""The stages of the runner's thread."""
WAITS = ("poll", "wait for the device")
"""Stages of the owner's thread that wait; the first one also reads."""
BUSY = 0.75
"""A thread that works for this share of the time is the bottleneck."""
MACHINE_BUSY = 0.9


class Bound(StrEnum):
    """The bottleneck of a worker with a backlog."""

    DEVICE = "device"
    OWNER = "owner"
    MACHINE = "machine"
    BROKER = "broker"


class Speed(NamedTuple):
    """Events a second, and the seconds over which they were counted."""

    per_s: float
    seconds: float


class Latency(msgspec.Struct, frozen=True):
    """From the call that sends an event to its receipt by a reader of committed records, in milliseconds."""

    p50: float
    p95: float
    p99: float


class Stage(msgspec.Struct, frozen=True):
    """The time of a thread in one stage: microseconds per event, and the share (0..1) of the elapsed time."""

    thread: str
    stage: str
    us_per_event: float
    share: float


class Batches(msgspec.Struct, frozen=True):
    """The batches that were released for one reason, and their mean number of events."""

    reason: str
    batches: int
    items_mean: float


class Window(msgspec.Struct, frozen=True):
    """The worker between two moments of its steady work.

    `cpu_us` is its CPU time per event; `machine_busy` the share (0..1) of all cores' time that any process used, None
    where the system does not say. Three are means: `batch_wait_ms` of the wait of a batch's first event for the device,
    `batch_ms` of the time of a batch, `commit_ms` of the time of a commit.
    """

    seconds: float
    events: int
    cpu_us: float | None
    machine_busy: float | None
    stages: Sequence[Stage]
    batches: Sequence[Batches]
    batch_wait_ms: float | None
    batch_ms: float | None
    commits: int
    commit_ms: float | None

    def busy(self, thread: str) -> float:
        """The share of the time in which a thread was in a stage of work. It may have waited there for a core, or for
        the other thread to release the interpreter lock."""
        worked = sum(one.share for one in self.stages if one.thread == thread and one.stage not in WAITS)
        return min(1.0, worked)  # a stage counts when it ends, and may have begun before the window

    @property
    def cores(self) -> float | None:
        """How many cores the worker's process kept busy."""
        return None if self.cpu_us is None else self.cpu_us * self.events / self.seconds / 1e6


def window(first: Moment, last: Moment, cores: int) -> Window | None:
    """The work between two moments; None when there was none."""
    figures, seconds = last.figures.since(first.figures), last.at - first.at
    events = figures.outcomes
    if events <= 0 or seconds <= 0:
        return None
    cpu_s = last.cpu_s - first.cpu_s if last.cpu_s is not None and first.cpu_s is not None else None
    both = last.machine_s is not None and first.machine_s is not None
    machine_s = last.machine_s - first.machine_s if both else None  # type: ignore[operator]
    return Window(
        seconds=seconds,
        events=events,
        cpu_us=None if cpu_s is None else cpu_s / events * 1e6,
        machine_busy=None if machine_s is None else min(1.0, machine_s / seconds / cores),
        stages=stages(figures, events, seconds),
        batches=batches(figures),
        batch_wait_ms=_ms(figures.mean("streamer_batch_wait_seconds")),
        batch_ms=_ms(figures.mean("streamer_inference_duration_seconds")),
        commits=int(figures.total("streamer_commit_duration_seconds_count")),
        commit_ms=_ms(figures.mean("streamer_commit_duration_seconds")),
    )


def steady(moments: Sequence[Moment], sent: int) -> tuple[Moment, Moment]:
    """The first and last moment of steady work: without the first and the last tenth where there are enough moments."""
    inner = [moment for moment in moments if 0.1 * sent <= moment.figures.outcomes <= 0.9 * sent]
    if len(inner) >= 2:
        return inner[0], inner[-1]
    # A run of a few moments: from the last one before the first outcome to the first one with all outcomes.
    before = [moment for moment in moments if moment.figures.outcomes == 0] or moments[:1]
    after = [moment for moment in moments if moment.figures.outcomes >= sent] or moments[-1:]
    return before[-1], after[0]


def stages(figures: Figures, events: int, seconds: float) -> list[Stage]:
    """Each stage of both threads, in the order of an event's path."""
    spent = figures.by("streamer_stage_seconds_total")
    return [
        Stage(thread, stage, spent[stage] / events * 1e6, spent[stage] / seconds)
        for thread, names in (("owner", STAGES), ("runner", RUNNER))
        for stage in names
        if stage in spent
    ]


def batches(figures: Figures) -> list[Batches]:
    """Batches by the reason of their release, the most frequent first."""
    counts, items = figures.by("streamer_batch_size_count"), figures.by("streamer_batch_size_sum")
    found = [Batches(reason, int(count), items[reason] / count) for reason, count in counts.items()]
    return sorted(found, key=lambda one: -one.batches)


def bound(found: Window, gpu: bool) -> Bound:
    """The bottleneck of a worker with a backlog: the GPU or the cores when they are busy; else the thread that works
    all the time; else the broker, for which both wait. Without a free core, a thread's share of time says little."""
    runner, owner = found.busy("runner"), found.busy("owner")
    if gpu and runner >= BUSY:
        return Bound.DEVICE
    if found.machine_busy is not None and found.machine_busy >= MACHINE_BUSY:
        return Bound.MACHINE
    if max(runner, owner) >= BUSY:
        return Bound.DEVICE if runner >= owner else Bound.OWNER
    return Bound.BROKER


def speed(times_ms: Sequence[int]) -> Speed | None:
    """The speed between the first and the last tenth of these times, without start and end; None when there are too
    few times or all are equal."""
    ordered = sorted(times_ms)
    first, last = len(ordered) // 10, len(ordered) * 9 // 10
    if last <= first or ordered[last] == ordered[first]:
        return None
    seconds = (ordered[last] - ordered[first]) / 1000
    return Speed((last - first) / seconds, seconds)


def latency(waits_s: Sequence[float]) -> Latency | None:
    """Percentiles of waits in seconds; None without waits."""
    p50, p95, p99 = (percentile(waits_s, share) for share in (0.5, 0.95, 0.99))
    return None if p50 is None or p95 is None or p99 is None else Latency(p50 * 1000, p95 * 1000, p99 * 1000)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
