"""How fast the shipped workers are, under both guarantees, and how long an answer takes at a modest rate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import events, latency, race, report
from benchmarks.backlog import backlog
from benchmarks.contestants.lineup import CachedStreamer, Streamer
from benchmarks.latency import Wait
from benchmarks.plan import GUARANTEES, Bench, Findings
from benchmarks.race import Run, speed
from benchmarks.report import Figure
from benchmarks.shipped_workers import Leads, RepeatedTickets, Tickets
from benchmarks.turns import Result, take_turns

COMMAND = "python -m benchmarks --only shipped"
REPEATED = 0.9
LEADS_MIN, TICKETS_MIN = 20_000, 1_500
"""Events a second on two cores without a GPU."""
KEPT_MIN = 0.8
"""The share of at-least-once's speed that exactly-once must keep."""
GAIN_MIN = 2.0
"""How many times faster repeats must be than events that are all new."""
P99_MAX_MS = 120.0
"""A reader of transactions waits for their end."""
LEADS, TICKETS, REPEATS = 30_000, 5_000, 25_000
"""Events a second that are expected; they size the backlogs."""
LEADS_RATE, TICKETS_RATE = 1_000, 200
"""Events a second at which latency is measured."""


def measure(bench: Bench) -> Findings:
    """Backlogs first; then, in a full run, each guarantee at a modest rate. Without the texts it is left out."""
    try:
        texts = events.load_texts()
    except FileNotFoundError as error:
        return Findings([], f"left out: {error}", [], 0)
    leads = [Streamer(f"lead-scoring, {how}", Leads, how, LEADS) for how in GUARANTEES]
    tickets = [Streamer(f"ticket-routing, {how}", Tickets, how, TICKETS) for how in GUARANTEES]
    found = _saturation(bench, leads, tickets, texts)
    waits = _latency(bench, leads, tickets, texts) if bench.sizes.shipped_latency else []
    tables = [race.summary(found)]
    if waits:
        tables.append(report.table([latency.HEADS, *(latency.row(one) for one in waits if one.runs)]))
    figures = [
        *race.rates("shipped", found, COMMAND),
        *latency.percentiles("shipped", waits, COMMAND),
        *_figures(found),
        *(
            report.at_most(f"{one.name}: p99 ms at {wait.rate:,}/s", wait.p99_ms, None, P99_MAX_MS, COMMAND)
            for one in waits
            for wait in one.runs
        ),
    ]
    faults = sum(one.faults for one in [*found, *waits])
    return Findings(figures, "\n\n".join(tables), [race.chart("shipped", "Shipped workers", found)], faults)


def _latency(
    bench: Bench, leads: Sequence[Streamer], tickets: Sequence[Streamer], texts: Sequence[str]
) -> list[Result[Wait]]:
    found = []
    for workers, feed, rate in ((leads, events.leads(), LEADS_RATE), (tickets, events.tickets(texts), TICKETS_RATE)):
        with backlog(bench.servers.bootstrap, workers[0].worker.source, feed) as source:
            found += take_turns([latency.entry(bench, source, one, rate) for one in workers], 1)
    return found


def _saturation(
    bench: Bench, leads: Sequence[Streamer], tickets: Sequence[Streamer], texts: Sequence[str]
) -> list[Result[Run]]:
    seconds = bench.sizes.seconds
    again = events.whole(REPEATS * seconds)
    feeds = (events.leads(), events.tickets(texts), events.tickets(texts, events.repeats(again, REPEATED)))
    name = f"{tickets[1].name}, {REPEATED:.0%} repeats, Redis"
    cached = CachedStreamer(name, RepeatedTickets, GUARANTEES[1], REPEATS)
    with ExitStack() as stack:
        sources = [
            stack.enter_context(backlog(bench.servers.bootstrap, worker.source, feed))
            for worker, feed in zip((Leads, Tickets, RepeatedTickets), feeds, strict=True)
        ]
        counts = (LEADS * seconds, TICKETS * seconds, again)
        report.tell("sending {:,.0f} leads, {:,.0f} tickets and {:,} that mostly repeat".format(*counts))
        shares = [source.send(count) for source, count in zip(sources, counts, strict=True)]
        entries = [
            race.entry(bench, source, worker, share)
            for workers, source, share in zip((leads, tickets, [cached]), sources, shares, strict=True)
            for worker in workers
        ]
        return take_turns(entries, bench.sizes.repetitions_short)


def _figures(found: Sequence[Result[Run]]) -> list[Figure]:
    leads_least, leads_exactly, tickets_least, tickets_exactly, cached = found
    figures = [
        report.at_least(f"{one.name}: events/s", speed(one), None, goal, COMMAND)
        for pair, goal in (((leads_least, leads_exactly), LEADS_MIN), ((tickets_least, tickets_exactly), TICKETS_MIN))
        for one in pair
    ]
    for one, other, goal in (
        (leads_exactly, leads_least, KEPT_MIN),
        (tickets_exactly, tickets_least, KEPT_MIN),
        (cached, tickets_exactly, GAIN_MIN),
    ):
        figures.append(
            report.at_least(f"{one.name}: events/s against {other.name}", speed(one), speed(other), goal, COMMAND)
        )
    return figures
