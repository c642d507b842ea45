"""How fast both workers are, under both guarantees, on a real broker: `make bench`, or FAST=1 make bench.

Throughput: a backlog is sent first, then `streamer run` works it off; its start and its end do not count. The runs
of different cases alternate, so that what else the machine does hits them alike. Latency: a modest fixed rate, from
the call that sends until a read-committed reader has the answer. Every event is accounted for in every run; ends
with 1 when one is lost, repeated or dead. A missed speed goal is shown only: it depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks import events, latency, report
from benchmarks.answers import Outputs, Tally, place_group, places, tally, window_rate
from benchmarks.events import Record
from benchmarks.latency import Latency
from benchmarks.report import Figure
from benchmarks.servers import Cluster, WorkerProcess, cluster, connection, run, settings
from streamer.worker import Worker
from tests.services import ServiceError, end_offsets, produce_many, unique
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting

COMMAND = "make bench"
PARTITIONS = 4
REPEATED = 0.9
GUARANTEES = ("exactly_once", "at_least_once")
STALL_S = 60.0
SAMPLE_S = 0.1

GOALS = {LeadScoring.name: 20_000, TicketRouting.name: 1_500}
"""Events a second on two cores without a GPU."""
KEPT_MIN = 0.8
"""The share of at-least-once's speed that exactly-once must keep."""
GAIN_MIN = 2.0
"""How many times faster repeats must be than events that are all new."""
P99_MAX_MS = 120.0
"""A reader of transactions waits for their end."""

Make = Callable[[int, str], list[Record]]


class Case(NamedTuple):
    """What is measured: a worker, a guarantee, and `what` events, of which `make` gives a number for a named run.

    `backlog` events are worked off; `rate` a second are sent where latency is measured (0: it is not).
    """

    worker: type[Worker[Any, Any]]
    delivery: str
    what: str
    make: Make
    backlog: int
    rate: int
    redis: bool = False

    def __str__(self) -> str:
        return f"{self.worker.name}, {self.delivery}, {self.what}"


class Run(NamedTuple):
    """One backlog worked off. `load` is the machine's before it began."""

    events_per_s: float
    cpu_ms: float
    hits: float
    tally: Tally
    load: float


class Measured(NamedTuple):
    """All that was measured of a case."""

    case: Case
    runs: list[Run]
    latency: Latency | None
    tallies: list[Tally]


class Sizes(NamedTuple):
    """How much is measured; latency only of the guarantees in `timed`."""

    leads: int
    tickets: int
    repetitions: int
    latency_s: int
    timed: tuple[str, ...]


FULL = Sizes(leads=150_000, tickets=40_000, repetitions=3, latency_s=8, timed=GUARANTEES)
FAST = Sizes(leads=60_000, tickets=25_000, repetitions=1, latency_s=3, timed=GUARANTEES[:1])
"""Backlogs are larger than what a worker has in flight: outcomes leave in order, so a smaller one leaves at once."""


def main() -> None:
    """Measure, print and keep the figures."""
    options = _options()
    sizes = FAST if options.fast else FULL
    try:
        chosen = cases(events.load_texts(options.texts), sizes)
        with cluster(options.bootstrap, options.redis) as servers, TemporaryDirectory(prefix="streamer-bench-") as temp:
            measured = measure(servers, chosen, sizes, Path(temp))
    except (ServiceError, FileNotFoundError) as error:
        raise SystemExit(f"bench: {error}") from error
    figures = figures_of(measured)
    print(f"{summary(measured)}\n\n{report.machine()}")
    for figure in figures:
        if not figure.ok:
            print(f"missed: {figure.what}: {figure.ours:g}, goal {figure.goal}")
    report.write(figures, options.results / "bench.json")
    if not all(counts.exact for one in measured for counts in one.tallies):
        sys.exit("bench: not every event was predicted exactly once; see the counts above")


def cases(texts: Sequence[str], sizes: Sizes) -> list[Case]:
    """The cases, in the order in which they take turns."""

    def tickets(count: int, tag: str) -> list[Record]:
        return events.tickets(count, tag, texts)

    def repeats(count: int, tag: str) -> list[Record]:
        return events.tickets(count, tag, texts, REPEATED)

    def rate(delivery: str, per_s: int) -> int:
        return per_s if delivery in sizes.timed else 0

    return [
        *(Case(LeadScoring, how, "all new", events.leads, sizes.leads, rate(how, 1_000)) for how in GUARANTEES),
        *(Case(TicketRouting, how, "all new", tickets, sizes.tickets, rate(how, 200)) for how in GUARANTEES),
        Case(TicketRouting, GUARANTEES[0], f"{REPEATED:.0%} repeats, Redis", repeats, sizes.tickets, 0, redis=True),
    ]


def measure(servers: Cluster, chosen: Sequence[Case], sizes: Sizes, folder: Path) -> list[Measured]:
    """Run every case so often, in turns; then the latencies."""
    names = sorted({case.worker.name for case in chosen})
    run("topics", "apply", *names, "--partitions", str(PARTITIONS), sets=connection(servers), folder=folder)
    runs: list[list[Run]] = [[] for _ in chosen]
    for repetition in range(sizes.repetitions):
        for case, done in zip(chosen, runs, strict=True):
            done.append(work_off(servers, case, folder))
            _tell(f"{repetition + 1}/{sizes.repetitions}  {case}: {done[-1].events_per_s:,.0f} events/s")
    measured = []
    for case, done in zip(chosen, runs, strict=True):
        tallies = [one.tally for one in done]
        waits = None
        if case.rate:
            waits, counts = wait_for_each(servers, case, sizes.latency_s, folder)
            tallies.append(counts)
            _tell(f"{case}: p50 {waits.p50_ms:.1f} ms, p99 {waits.p99_ms:.1f} ms at {case.rate}/s")
        measured.append(Measured(case, done, waits, tallies))
    return measured


def work_off(servers: Cluster, case: Case, folder: Path) -> Run:
    """Send a backlog, then start a worker on it and wait until every event has its outcome."""
    source, tag = case.worker.source, unique("bench")
    start = end_offsets(servers.bootstrap, source)
    records = case.make(case.backlog, tag)
    produce_many(servers.bootstrap, source, ((record.key, record.value) for record in records))
    place_group(servers.bootstrap, tag, source, start)
    outputs = Outputs(servers.bootstrap, source, case.worker.target)
    load = os.getloadavg()[0]
    try:
        with WorkerProcess(case.worker.name, settings(servers, tag, case.delivery, case.redis), folder) as worker:
            worker.wait_until_ready()
            cpu_ms = _watch(worker, len(records))
        outputs.read_to_end()
    finally:
        outputs.close()
    counts = tally(places(start, end_offsets(servers.bootstrap, source)), outputs)
    hits = sum(answer.cached for answer in outputs) / len(records)
    return Run(window_rate([answer.time_ms for answer in outputs]), cpu_ms, hits, counts, load)


def wait_for_each(servers: Cluster, case: Case, seconds: float, folder: Path) -> tuple[Latency, Tally]:
    """Send at the case's rate and time every answer."""
    source, tag = case.worker.source, unique("bench")
    records = case.make(int(case.rate * (seconds + latency.WARM_UP_S)), tag)
    start = end_offsets(servers.bootstrap, source)
    place_group(servers.bootstrap, tag, source, start)
    outputs = Outputs(servers.bootstrap, source, case.worker.target)
    receiver = latency.Receiver(outputs)
    sender = latency.Sender(servers.bootstrap, source, records, case.rate)
    try:
        with WorkerProcess(case.worker.name, settings(servers, tag, case.delivery, case.redis), folder) as worker:
            worker.wait_until_ready()
            with sender:
                outputs.read_until(len(records), receiver, worker.check)
        outputs.read_to_end()
    finally:
        outputs.close()
    counts = tally(places(start, end_offsets(servers.bootstrap, source)), outputs)
    return latency.summarise(case.rate, sender.sent_s, receiver.received_s), counts


def figures_of(measured: Sequence[Measured]) -> list[Figure]:
    """Every figure with its goal."""
    speeds = {one.case: median(each.events_per_s for each in one.runs) for one in measured}
    figures = []
    for one in measured:
        case, speed = one.case, speeds[one.case]
        wrong = sum(counts.sent - counts.predicted + sum(counts[2:]) for counts in one.tallies)
        figures.append(report.exactly(f"{case}: events lost, repeated, dead or out of order", wrong, 0, COMMAND))
        figures.append(report.at_least(f"{case}: events/s", speed, None, GOALS[case.worker.name], COMMAND))
        other = next((o for o in speeds if is_measure_of(o, case)), None)
        if other is not None:
            share = GAIN_MIN if case.redis else KEPT_MIN
            figures.append(report.at_least(f"{case}: events/s against {other}", speed, speeds[other], share, COMMAND))
        if one.latency is not None:
            figures.append(report.at_most(f"{case}: p99 ms at {case.rate}/s", one.latency.p99_ms, P99_MAX_MS, COMMAND))
    return figures


def summary(measured: Sequence[Measured]) -> str:
    """The table: medians, and the range of the runs in brackets."""
    heads = "worker, guarantee, events|events/s|CPU ms per 1,000|p50 / p99 ms|from cache|lost/repeated/dead|load"
    rows = [heads.split("|")]
    for one in measured:
        waits = one.latency
        rows.append(
            [
                str(one.case),
                _spread([each.events_per_s for each in one.runs], ",.0f"),
                _spread([each.cpu_ms for each in one.runs], ".0f"),
                f"{waits.p50_ms:.1f} / {waits.p99_ms:.1f} at {waits.rate}/s" if waits else "",
                f"{median(each.hits for each in one.runs):.0%}",
                "/".join(str(sum(getattr(c, what) for c in one.tallies)) for what in ("lost", "duplicated", "dead")),
                _spread([each.load for each in one.runs], ".1f"),
            ]
        )
    return report.table(rows)


def is_measure_of(other: Case, case: Case) -> bool:
    """Whether a case is held against the other: repeats against all new, exactly once against at least once."""
    if other.worker is not case.worker or other.redis:
        return False
    return other.delivery == case.delivery if case.redis else other.delivery != case.delivery == GUARANTEES[0]


def _watch(worker: WorkerProcess, count: int) -> float:
    """Wait until `count` events are done; CPU milliseconds per 1,000 of them, between the first and the last tenth.

    Raises:
        ServiceError: the worker ended, or nothing was done for a minute.
    """
    samples: list[tuple[int, float]] = []
    moved, done = time.monotonic(), 0
    while done < count:
        time.sleep(SAMPLE_S)
        worker.check()
        before, done = done, worker.done()
        if 0.1 * count <= done <= 0.9 * count:
            samples.append((done, worker.cpu_s()))
        if done > before:
            moved = time.monotonic()
        elif time.monotonic() - moved > STALL_S:
            raise ServiceError(f"{worker.worker} has done {done} of {count} and nothing for {STALL_S:.0f} s: it hangs")
    return cpu_ms(samples)


def cpu_ms(samples: Sequence[tuple[int, float]]) -> float:
    """Milliseconds per 1,000 events, of (events done, CPU seconds so far); not a number for less than two samples."""
    if len(samples) < 2 or samples[-1][0] == samples[0][0]:
        return float("nan")
    (first, began), (last, ended) = samples[0], samples[-1]
    return (ended - began) / (last - first) * 1_000_000


def _spread(values: Sequence[float], form: str) -> str:
    if len(values) == 1:
        return format(values[0], form)
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saturation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks.saturation --fast",
    )
    parser.add_argument(
        "--fast", action="store_true", default=bool(os.environ.get("FAST")), help="a rough look in two minutes (FAST=1)"
    )
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a broker of yours (default: start one)")
    parser.add_argument("--redis", metavar="URL", help="a Redis of yours (default: start one)")
    parser.add_argument("--texts", type=Path, default=events.TEXTS, metavar="FILE", help="train.csv of Banking77")
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, metavar="DIR", help="where bench.json is written"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
