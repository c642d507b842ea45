"""Whether a long backlog is as fast and as small as a short one."""

from __future__ import annotations

from benchmarks import events, race, report
from benchmarks.backlog import backlog
from benchmarks.contestants.lineup import Streamer
from benchmarks.plan import Bench, Findings
from benchmarks.plots import Lines
from benchmarks.race import Run
from benchmarks.turns import take_turns
from benchmarks.workers import Tabular

COMMAND = "python -m benchmarks --only memory"
HOW = "exactly_once"
WARM_UP = 0.2
"""The share of a run after which its buffers are full."""
RATED_FROM = 100_000
"""A smaller backlog is in flight at once: it has no rate."""
FLAT = 0.05


def measure(bench: Bench) -> Findings:
    """The small model on ever longer backlogs."""
    sizes = bench.sizes.memory
    with backlog(bench.servers.bootstrap, Tabular.source, events.synthetic(events.tabular())) as filled:
        report.tell(f"sending {max(sizes):,} events to {filled.topic}")
        filled.send(max(sizes))
        entries = []
        for size in sizes:
            contestant = Streamer(f"{size:,} events", Tabular, HOW, 0)
            entries.append(race.entry(bench, filled, contestant, filled.last(size)))
        found = take_turns(entries, 1)
    runs = {size: one.runs[0] for size, one in zip(sizes, found, strict=True) if one.runs}
    rates = [run.events_per_s for size, run in runs.items() if size >= RATED_FROM]
    figures = race.rates("memory", found, COMMAND)
    if rates and (longest := runs.get(max(sizes))):
        grown = warm_mb(longest)
        figures += [
            report.at_least(
                f"memory: slowest events/s of {RATED_FROM:,} to {max(sizes):,} events against the fastest",
                min(rates),
                max(rates),
                1 - FLAT,
                COMMAND,
            ),
            report.at_most(
                f"memory, {max(sizes):,} events: highest RSS in MiB after warm-up against that at warm-up",
                max(grown),
                grown[0],
                1 + FLAT,
                COMMAND,
            ),
        ]
    chart = Lines(
        "memory",
        "Memory while a backlog is worked off",
        "events done",
        "RSS, MiB",
        {f"{size:,}": [sample[::2] for sample in run.samples if sample.done] for size, run in runs.items()},
    )
    return Findings(figures, race.summary(found, found[-1]), [chart], sum(one.faults for one in found))


def warm_mb(run: Run) -> list[float]:
    """Resident memory from warm-up on, in MiB."""
    return [sample.rss_mb for sample in run.samples if sample.done >= WARM_UP * run.verdict.events]
