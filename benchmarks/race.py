"""Who works off a backlog fastest: every contestant in turn, so that what else the machine does hits them alike.

A contestant joins a fresh group at the start of its share of the backlog. While it runs, only the end of its target
is watched; then it is stopped, and all that it wrote is read and checked. Its rate is that of its outputs' timestamps,
without the first and the last tenth, so that neither its start nor its end counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

from benchmarks import report
from benchmarks.answers import window_rate
from benchmarks.backlog import Backlog, delete_topics, renew_topics
from benchmarks.contestants.lineup import Contestant, Job
from benchmarks.plan import Bench
from benchmarks.plots import Bars
from benchmarks.report import Figure
from benchmarks.servers import Child
from benchmarks.turns import Entry, Result, absent
from benchmarks.verdict import Scored, Verdict, judge, total
from schemas import dead_letters

SAMPLE_S = 0.2
SETTLED_S = 0.6
"""An end that has not moved for so long does not move any more: commits come each 100 ms."""
STALL_S = 30.0
"""Longer than any contestant takes to start."""


HEADS = ["contestant", "events/s", "ratio", "CPU ms per 1,000", "RSS MiB", "lost / repeated / wrong", "load"]


class Sample(NamedTuple):
    """A moment of a run: outputs there, CPU seconds used so far, resident memory in MiB."""

    done: int
    cpu_s: float
    rss_mb: float


class Run(NamedTuple):
    """One share of a backlog worked off: CPU in ms per 1,000 events, memory at its highest in MiB, the share of
    answers from a cache, the machine's load before it began."""

    events_per_s: float
    cpu_ms: float
    rss_mb: float
    hits: float
    load: float
    verdict: Verdict
    samples: Sequence[Sample] = ()

    def __str__(self) -> str:
        return f"{self.events_per_s:,.0f} events/s of {self.verdict.events:,}; {self.verdict}"


Results = Sequence[Result[Run]]


def entry(bench: Bench, backlog: Backlog, contestant: Contestant, events: range) -> Entry[Run]:
    """A contestant that works off these events each time that it is its turn."""
    return Entry(contestant.name, lambda: work_off(bench, backlog, contestant, events), contestant.missing())


def speed(result: Result[Run]) -> float:
    """The median of events a second; not a number without a run."""
    return median(run.events_per_s for run in result.runs) if result.runs else float("nan")


def work_off(bench: Bench, backlog: Backlog, contestant: Contestant, events: range) -> Run:
    """One run over these events.

    Raises:
        ServiceError: the contestant ended by itself, or its outputs cannot be read.
    """
    load = os.getloadavg()[0]
    with stage(bench, backlog, contestant, events) as (job, outputs):
        with contestant.start(job) as child:
            samples = watch([child], outputs, job.target, valid(backlog, events))
        return finished(backlog, events, outputs, samples, load)


@contextmanager
def stage(bench: Bench, backlog: Backlog, contestant: Contestant, events: range) -> Iterator[tuple[Job, Scored]]:
    """Empty topics for the outputs of a run, and a reader of them that does not read yet."""
    target = contestant.target()
    topics = [target, *([dead_letters(backlog.topic)] if contestant.keeps_promises else [])]
    renew_topics(backlog.bootstrap, topics)
    outputs = Scored(backlog.bootstrap, target, backlog.topic if contestant.keeps_promises else None)
    try:
        yield Job(bench.servers, backlog.topic, target, backlog.group_at(events), bench.folder), outputs
    finally:
        outputs.close()
        delete_topics(backlog.bootstrap, topics)


def watch(children: Sequence[Child], outputs: Scored, target: str, count: int) -> list[Sample]:
    """Wait until `count` outputs are there and no more come, or nothing has come for a long time.

    Raises:
        ServiceError: a child has ended.
    """
    samples = [Sample(0, 0.0, 0.0)]
    moved = time.monotonic()
    while time.monotonic() - moved < (SETTLED_S if samples[-1].done >= count else STALL_S):
        time.sleep(SAMPLE_S)
        for child in children:
            child.check()
        done = outputs.grown(target)
        if done > samples[-1].done:
            moved = time.monotonic()
        cpu_s, rss_mb = (sum(child.cpu_s() for child in children), sum(child.rss_mb() for child in children))
        samples.append(Sample(done, cpu_s, rss_mb))
    return samples


def finished(backlog: Backlog, events: range, outputs: Scored, samples: Sequence[Sample], load: float) -> Run:
    """Read and check all outputs of a run, whose processes have ended."""
    outputs.start()
    outputs.read_to_end()
    count = len(events)
    return Run(
        events_per_s=window_rate(outputs.times_ms),
        cpu_ms=cpu_ms(samples, count),
        rss_mb=max(sample.rss_mb for sample in samples),
        hits=outputs.hits / count,
        load=load,
        verdict=judge(outputs.columns, backlog.feed.wanted(events)),
        samples=samples,
    )


def valid(backlog: Backlog, events: range) -> int:
    """How many of the events have an output due."""
    return len(events) - int(backlog.feed.wanted(events).broken.sum())


def cpu_ms(samples: Sequence[Sample], count: int) -> float:
    """Milliseconds per 1,000 events between the first and the last tenth of a run of `count`; not a number where the
    samples span less than half of it."""
    within = [sample for sample in samples if 0.1 * count <= sample.done <= 0.9 * count]
    if len(within) < 2 or within[-1].done - within[0].done < 0.5 * count:
        return float("nan")
    return (within[-1].cpu_s - within[0].cpu_s) / (within[-1].done - within[0].done) * 1_000_000


def summary(results: Results, limit: Result[Run] | None = None) -> str:
    """The table: medians and ranges; where there is a `limit`, the ratio of all to it. Below, who did not run."""
    rows = [HEADS]
    for result in results:
        if not (runs := result.runs):
            continue
        rows.append(
            [
                result.name,
                report.spread([run.events_per_s for run in runs], ",.0f"),
                f"{speed(result) / speed(limit):.2f}" if limit else "",
                report.spread([run.cpu_ms for run in runs], ".1f"),
                report.spread([max(run.rss_mb for run in runs)], ".0f"),
                str(total(run.verdict for run in runs)),
                report.spread([run.load for run in runs], ".1f"),
            ]
        )
    return "\n".join([report.table(rows), *absent(results)])


def rates(section: str, results: Results, command: str) -> list[Figure]:
    """The rates of all, for programs."""
    return [
        report.middle(f"{section}: {one.name}: events/s", [run.events_per_s for run in one.runs], command)
        for one in results
        if one.runs
    ]


def chart(name: str, title: str, results: Results) -> Bars:
    """The rates as bars."""
    return Bars(
        name, title, "events/s", {one.name: [run.events_per_s for run in one.runs] for one in results if one.runs}
    )
