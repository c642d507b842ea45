"""How fast the engine is against the hand-fused loop and against its peers, on the same work."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import events, race, report
from benchmarks.backlog import backlog
from benchmarks.contestants.lineup import Contestant, Peer, Streamer, fused
from benchmarks.events import Contents, Feed
from benchmarks.plan import GUARANTEES, Bench, Findings
from benchmarks.race import Run, speed
from benchmarks.report import Figure
from benchmarks.servers import ROOT
from benchmarks.turns import Entry, Result, take_turns
from benchmarks.verdict import Verdict
from benchmarks.workers import Flat, Tabular, Text
from tests.services import ServiceError

COMMIT_MS = 100
FUSED, OURS, FUSED_TEXT, OURS_TEXT = 220_000, 150_000, 1_500, 4_000
PEERS = {"bytewax": 70_000, "quix": 50_000, "arroyo": 45_000, "faststream": 12_000, "faust": 6_500}
"""Events a second, about, on two cores: they size the shares of the backlog."""
LIMIT_MIN, PEERS_MIN, PADDED_MIN, RAW_MIN = 0.75, 1.9, 2.2, 0.90
RAW = "raw forward, no Kafka"
WORDS_MAX = {"batch.cost_max": "1000"}


def tabular(bench: Bench) -> Findings:
    """The small model on sixteen numbers in a list: all contestants."""
    return _small(bench, "tabular", "small model", Tabular, events.tabular())


def flat(bench: Bench) -> Findings:
    """The small model on eleven flat fields: all contestants."""
    return _small(bench, "flat", "small model on flat fields", Flat, events.flat())


def _small(bench: Bench, name: str, title: str, worker: type[Tabular | Flat], contents: Contents) -> Findings:
    contestants: list[Contestant] = [
        *(fused(name, how, COMMIT_MS, FUSED) for how in GUARANTEES),
        *(Streamer(f"streamer {how}", worker, how, OURS) for how in GUARANTEES),
        *(Peer(peer, name, rate) for peer, rate in PEERS.items()),
    ]
    found = _race(bench, worker.source, events.synthetic(contents), contestants, [])
    command = f"python -m benchmarks --only {name}"
    limits, ours, peers = found[:2], found[2:4], found[4:]
    best = max((peer for peer in peers if peer.runs), key=speed, default=Result("none", [], "make peers"))
    figures = race.rates(title, found, command)
    for how, limit, one in zip(GUARANTEES, limits, ours, strict=True):
        what = f"{title}, {how}: events/s against"
        figures.append(report.at_least(f"{what} {limit.name}", speed(one), speed(limit), LIMIT_MIN, command))
        peer = f"{what} the best peer, {best.name}"
        figures.append(report.at_least(peer, speed(one), speed(best), PEERS_MIN, command))
    return _findings(name, f"{title.capitalize()}, 16-256-256-2", found, figures)


def text(bench: Bench) -> Findings:
    """The text model: what buckets and padding to the longest are worth."""
    contestants: list[Contestant] = [
        fused("text", GUARANTEES[0], COMMIT_MS, FUSED_TEXT),
        *(Streamer(f"streamer {how}", Text, how, OURS_TEXT, WORDS_MAX) for how in GUARANTEES),
    ]
    found = _race(bench, Text.source, events.synthetic(events.text()), contestants, [Entry(RAW, _raw)])
    command = "python -m benchmarks --only text"
    limit, raw = found[0], found[-1]
    figures = race.rates("text", found, command)
    for how, one in zip(GUARANTEES, found[1:3], strict=True):
        for other, goal in ((limit, PADDED_MIN), (raw, RAW_MIN)):
            what = f"text, {how}: events/s against {other.name}"
            figures.append(report.at_least(what, speed(one), speed(other), goal, command))
    return _findings("text", f"Transformer on {events.WORDS[0]} to {events.WORDS[1]} words", found, figures)


def _race(
    bench: Bench, topic: str, feed: Feed, contestants: Sequence[Contestant], others: Sequence[Entry[Run]]
) -> list[Result[Run]]:
    """Send one backlog, and let each contestant work off as much of its end as keeps it busy for some seconds."""
    with backlog(bench.servers.bootstrap, topic, feed) as filled:
        shares = [int(contestant.rate * bench.sizes.seconds) for contestant in contestants]
        report.tell(f"sending {max(shares):,} events to {topic}")
        filled.send(max(shares))
        entries = [
            race.entry(bench, filled, contestant, filled.last(share))
            for contestant, share in zip(contestants, shares, strict=True)
        ]
        return take_turns([*entries, *others], bench.sizes.repetitions)


def _raw() -> Run:
    """The model alone, in a process like any contestant's.

    Raises:
        ServiceError: the process failed.
    """
    load = os.getloadavg()[0]
    words = [sys.executable, "-m", "benchmarks.contestants.raw"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"{RAW} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Run(float(done.stdout), math.nan, math.nan, 0.0, load, Verdict(0, 0, 0, 0, 0, 0))


def _findings(name: str, title: str, found: Sequence[Result[Run]], figures: Sequence[Figure]) -> Findings:
    chart = race.chart(name, title, found)
    return Findings(figures, race.summary(found, found[0]), [chart], sum(one.faults for one in found))
