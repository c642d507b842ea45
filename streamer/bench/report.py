"""The figures of all runs: as JSON for programs, and as a page for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from streamer.bench.advice import Advice, toml
from streamer.bench.curve import Curve
from streamer.bench.load import Run
from streamer.bench.measure import WAITS
from streamer.bench.proposals import Trial
from streamer.demo.summary import number, share

WIDTH = 112
"""The width of the page without a terminal."""
BAR = 24


class Setup(msgspec.Struct, frozen=True):
    """What was measured where. `repeats` is the share of events that repeat an earlier one; None: not known."""

    worker: str
    delivery: str
    device: str
    broker: str
    partitions: int
    cores: int
    events: str
    event_bytes: float
    repeats: float | None


class Report(msgspec.Struct, frozen=True):
    """All results. `faults` violate the guarantee: then the exit code is 70, and `logs` the folder of worker logs."""

    setup: Setup
    curve: Curve
    runs: Sequence[Run]
    trials: Sequence[Trial]
    advice: Advice
    faults: Sequence[str]
    logs: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the derived ones."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["curve"] |= {"best_items": self.curve.best.items, "knee_items": self.curve.knee.items}
        shown = [*plain["runs"], *(trial["run"] for trial in plain["trials"])]
        for one, run in zip(shown, [*self.runs, *(trial.run for trial in self.trials)], strict=True):
            one["kept_up"] = run.kept_up
            one["counts"]["lost"] = run.counts.lost
        plain["advice"]["toml"] = toml(self.advice.settings)
        return plain


def show(report: Report) -> None:
    """Print the page: as wide as the terminal; without a terminal, wider than rich's default."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    with console.capture() as page:
        for part in _page(report):
            console.print(
                part if isinstance(part, str | Text) else Padding(part, (0, 0, 0, 2)), highlight=False, markup=False
            )
    print("\n".join(line.rstrip() for line in page.get().splitlines()))


def _page(report: Report) -> Iterator[Any]:
    setup = report.setup
    yield Text(f"{setup.worker}, {setup.delivery}, on {setup.device} of {setup.cores} cores", style="bold")
    again = "" if setup.repeats is None else f", {setup.repeats:.0%} of them repeat"
    yield f"{setup.broker}, {setup.partitions} partitions; {setup.events}: {setup.event_bytes:.0f} bytes each{again}"
    yield ""
    yield _runs(report.runs)
    yield from map(_account, report.runs)
    if any(run.latency for run in report.runs):
        yield "p50 to p99: from the call that sends an event to its receipt by a reader of committed records."
    yield "CPU (per event) and memory are of the worker's process; cached predictions came from the cache."
    yield from _heading("Where the time goes, in microseconds per event (share of the elapsed time)")
    yield _stages(report.runs)
    yield from _heading("Batches: how many, and of how many events")
    yield _batches(report.runs)
    yield from _heading("The model alone, without Kafka")
    yield _curve(report.curve)
    yield _fit(report.curve)
    yield from _heading("What follows")
    yield from report.advice.means
    pasted = toml(report.advice.settings)
    yield "For streamer.toml:" if pasted else "No setting is suggested: the measurements give no reason for a change."
    if pasted:
        yield ""
        yield Syntax(pasted, "toml", background_color="default", word_wrap=True)
    for fault in report.faults:
        yield Text(f"WRONG: {fault}", style="bold red")


def _heading(text: str) -> Iterator[Any]:
    yield ""
    yield Text(text, style="bold")


def _runs(runs: Sequence[Run]) -> Table:
    times = ("p50 ms", "p95 ms", "p99 ms", "commit ms")
    table = _table("load", "events/s", *times, "CPU µs", "RSS MiB", "cached")
    for run in runs:
        wait, window = run.latency, run.window
        table.add_row(
            run.name + (" (short)" if run.short else "" if run.kept_up else " (behind)"),
            number(run.events_per_s),
            *([number(wait.p50), number(wait.p95), number(wait.p99)] if wait else ["", "", ""]),
            number(window.commit_ms if window else None),
            number(window.cpu_us if window else None),
            number(run.rss_mib),
            share(run.counts.cached / run.counts.predicted if run.counts.predicted else None),
        )
    return table


def _account(run: Run) -> str:
    counts = run.counts
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.dead_reasons.items())
    return (
        f"{run.name}: {counts.sent:,} sent = {counts.predicted:,} predicted + {counts.dead:,} dead"
        f"{f' ({reasons})' if reasons else ''} + {counts.skipped:,} skipped; "
        f"lost {counts.lost:,}, repeated {counts.repeated:,}, out of order {counts.unordered:,}; "
        f"load before {run.load:.1f}"
    )


def _stages(runs: Sequence[Run]) -> Table:
    table = _table("thread", "stage", *(run.name for run in runs), left=2)
    names = list(dict.fromkeys((one.thread, one.stage) for run in runs if run.window for one in run.window.stages))
    for thread, stage in names:
        cells = []
        for run in runs:
            found = {(one.thread, one.stage): one for one in (run.window.stages if run.window else ())}
            one = found.get((thread, stage))
            cells.append(f"{number(one.us_per_event)} ({one.share:4.0%})" if one else "")
        table.add_row(thread, stage + (" (waits)" if stage in WAITS else ""), *cells)
    return table


def _batches(runs: Sequence[Run]) -> Table:
    table = _table("released", *(run.name for run in runs))
    reasons = list(dict.fromkeys(one.reason for run in runs if run.window for one in run.window.batches))
    for reason in reasons:
        cells = []
        for run in runs:
            found = {one.reason: one for one in (run.window.batches if run.window else ())}
            one = found.get(reason)
            cells.append(f"{one.batches:,} of {number(one.items_mean)}" if one else "")
        table.add_row(reason, *cells)
    return table


def _curve(curve: Curve) -> Table:
    table = _table("events", "ms a batch", "events/s", "")
    table.columns[3].justify = "left"
    for point in curve.points:
        mark = " knee" if point is curve.knee else ""
        bar = "█" * max(1, round(BAR * point.events_per_s / curve.best.events_per_s))
        table.add_row(f"{point.items:,}", f"{point.ms:.2f}", number(point.events_per_s), bar + mark)
    return table


def _fit(curve: Curve) -> str:
    unit = "unit of padded cost" if curve.varied else "event"
    more = "; larger ones take too long to try" if curve.stopped else ""
    refused = f"; the worker rejects {curve.rejected:.0%} of the events" if curve.rejected else ""
    return f"A batch takes {curve.fixed_ms:.2f} ms + {curve.us_per_cost:.2f} µs per {unit}{more}{refused}."


def _table(*names: str, left: int = 1) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for at, name in enumerate(names):
        table.add_column(name, justify="left" if at < left else "right", no_wrap=True)
    return table
