"""From the call that sends an event until a careful reader has its answer, at a rate that all can keep.

A contestant gets one event a partition first, and the measure begins when it has answered them. Sender and reader
share this process and its two cores with what they measure.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple, Self

from confluent_kafka import Producer

from benchmarks import events, report
from benchmarks.backlog import Backlog, backlog
from benchmarks.contestants.lineup import Contestant, Streamer, fused
from benchmarks.events import PARTITIONS, Record
from benchmarks.plan import GUARANTEES, Bench, Findings
from benchmarks.plots import Bars
from benchmarks.race import stage, valid
from benchmarks.report import Figure
from benchmarks.servers import Child
from benchmarks.turns import Entry, Result, absent, take_turns
from benchmarks.verdict import Scored, Verdict, judge, total
from benchmarks.workers import Tabular
from tests.services import ServiceError

COMMAND = "python -m benchmarks --only latency"
WARM_UP_S = 1.0
"""What is sent in the first second does not count."""
FIRST_S, LAST_S = 60.0, 15.0
"""The longest that a contestant may take to its first answers, and from the last event to its answer."""
COMMIT_MS = {"at_least_once": 100, "exactly_once": 10}
"""Of the hand-written loop: only exactly-once makes a reader wait for it."""
P50_MAX = {"at_least_once": 1.5, "exactly_once": 1.1}
P99_MAX = {"at_least_once": 2.0, "exactly_once": 0.8}
HEADS = ["contestant", "events/s", "p50 ms", "p95 ms", "p99 ms", "lost / repeated / wrong", "load"]


class Wait(NamedTuple):
    """Milliseconds, of `events` at `rate` a second; the machine's load before."""

    rate: int
    events: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    load: float
    verdict: Verdict

    def __str__(self) -> str:
        return f"p50 / p95 / p99 {self.p50_ms:.1f} / {self.p95_ms:.1f} / {self.p99_ms:.1f} ms; {self.verdict}"


class Sender:
    """Sends events at a fixed rate on a thread of its own, and remembers when it sent each."""

    def __init__(self, bootstrap: str, topic: str, records: Mapping[int, Record], rate: int) -> None:
        self.sent_s: dict[int, float] = {}
        self._topic = topic
        self._records = records
        self._interval_s = 1 / rate
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1, "log_level": 4}
        )
        self._thread = threading.Thread(target=self._send, name="sender", daemon=True)

    def __enter__(self) -> Self:
        self._producer.list_topics(self._topic, timeout=15)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._producer.flush(30)

    def _send(self) -> None:
        due = time.perf_counter()
        for number, (key, value) in self._records.items():
            due += self._interval_s
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            self.sent_s[number] = time.perf_counter()
            self._producer.produce(self._topic, value, key, number % PARTITIONS)
            self._producer.poll(0)


def measure(bench: Bench) -> Findings:
    """Both guarantees at both rates, beside the hand-written loop."""
    figures, rows, notes, bars, faults = [], [HEADS], [], {}, 0
    with backlog(bench.servers.bootstrap, Tabular.source, events.synthetic(events.tabular())) as source:
        for rate in bench.sizes.rates:
            report.tell(f"at {rate:,} events/s")
            entries = [
                entry(bench, source, contestant, rate)
                for how in GUARANTEES
                for contestant in (
                    fused("tabular", how, COMMIT_MS[how], rate),
                    Streamer(f"streamer {how}", Tabular, how, rate),
                )
            ]
            found = take_turns(entries, bench.sizes.latency_repetitions)
            for how, limit, ours in zip(GUARANTEES, found[::2], found[1::2], strict=True):
                figures += compare(f"latency, {how}, {rate:,}/s", how, ours, limit)
            figures += percentiles(f"latency, {rate:,}/s", found, COMMAND)
            rows += [row(one) for one in found if one.runs]
            notes += absent(found)
            bars.update({f"{one.name}, {rate:,}/s": [wait.p99_ms for wait in one.runs] for one in found if one.runs})
            faults += sum(one.faults for one in found)
    chart = Bars("latency", "Small model: p99", "ms", bars)
    return Findings(figures, "\n".join([report.table(rows), *notes]), [chart], faults)


def entry(bench: Bench, source: Backlog, contestant: Contestant, rate: int) -> Entry[Wait]:
    """A contestant that is sent events at this rate each time that it is its turn."""
    return Entry(contestant.name, lambda: wait_for_each(bench, source, contestant, rate), contestant.missing())


def wait_for_each(bench: Bench, source: Backlog, contestant: Contestant, rate: int) -> Wait:
    """Send events at the rate and time every answer.

    Raises:
        ServiceError: the contestant ended or does not answer.
    """
    load = os.getloadavg()[0]
    hello = source.reserve(PARTITIONS)
    timed = source.reserve(rate * (bench.sizes.latency_s + WARM_UP_S))
    sender = Sender(source.bootstrap, source.topic, {number: source.feed.record(number) for number in timed}, rate)
    with stage(bench, source, contestant, range(hello.start, timed.stop)) as (job, outputs), _no_collection():
        outputs.start()
        with contestant.start(job) as child:
            source.write(hello)
            receive(outputs, child, valid(source, hello), FIRST_S)
            with sender:
                received_s = receive(outputs, child, valid(source, range(hello.start, timed.stop)), LAST_S)
        outputs.read_to_end()
        verdict = judge(outputs.columns, source.feed.wanted(range(hello.start, timed.stop)))
    waits = waits_ms(sender.sent_s, received_s)
    return Wait(rate, len(waits), *(percentile(waits, share) for share in (0.5, 0.95, 0.99)), load, verdict)


def compare(what: str, how: str, ours: Result[Wait], limit: Result[Wait]) -> list[Figure]:
    """Our percentiles against the hand-written loop's."""
    if not ours.runs or not limit.runs:
        return []
    figures = []
    for name, goal in (("p50_ms", P50_MAX[how]), ("p99_ms", P99_MAX[how])):
        mine, theirs = (median(getattr(wait, name) for wait in one.runs) for one in (ours, limit))
        label = f"{what}: {name.replace('_', ' ')} against {limit.name}"
        figures.append(report.at_most(label, mine, theirs, goal, COMMAND))
    return figures


def percentiles(section: str, results: Sequence[Result[Wait]], command: str) -> list[Figure]:
    """The percentiles of all, for programs."""
    return [
        report.middle(f"{section}: {one.name}: {name} ms", [getattr(wait, f"{name}_ms") for wait in one.runs], command)
        for one in results
        if one.runs
        for name in ("p50", "p95", "p99")
    ]


def row(result: Result[Wait]) -> list[str]:
    """A line of the table: medians and ranges."""
    waits = result.runs
    return [
        result.name,
        f"{waits[0].rate:,}",
        *(report.spread([getattr(wait, name) for wait in waits], ".1f") for name in ("p50_ms", "p95_ms", "p99_ms")),
        str(total(wait.verdict for wait in waits)),
        report.spread([wait.load for wait in waits], ".1f"),
    ]


def waits_ms(sent_s: Mapping[int, float], received_s: Mapping[int, float]) -> list[float]:
    """How long each event took, in order, of those that were sent after the first second and have an answer."""
    began = min(sent_s.values()) + WARM_UP_S
    return sorted(
        (received_s[number] - sent) * 1000 for number, sent in sent_s.items() if sent >= began and number in received_s
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values are; not a number when there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def receive(outputs: Scored, child: Child, count: int, patience_s: float) -> dict[int, float]:
    """Read until `count` outputs are there; when each event's was read.

    Raises:
        ServiceError: the child has ended, or nothing has come for too long.
    """
    received_s: dict[int, float] = {}
    moved = time.monotonic()
    while (before := len(outputs.numbers)) < count:
        child.check()
        if outputs.read(0.05):
            now = time.perf_counter()
            moved = time.monotonic()
            for number in outputs.numbers[before:]:
                received_s.setdefault(number, now)
        elif time.monotonic() - moved > patience_s:
            raise ServiceError(f"{child.name} has answered {before} of {count} and nothing more in {patience_s:.0f} s")
    return received_s


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector: a walk over all records would count as latency."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
