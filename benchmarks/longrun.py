"""A long run at one rate, as stream engines publish it: `python -m benchmarks.longrun`.

1,000 events a second on 5 partitions for 30 minutes, of which the first 5 do not count; a `read_committed` reader; each
event is timed from the call that sends it until the reader has its prediction. Sender, reader, broker and worker share
this machine. Ends with 1 when the counts of source and target differ, or an answer came twice.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray

from benchmarks import events, report
from benchmarks.answers import Reader
from benchmarks.backlog import renew_topics
from benchmarks.contestants.lineup import Job, Streamer
from benchmarks.latency import percentile
from benchmarks.plan import GUARANTEES
from benchmarks.report import Figure
from benchmarks.servers import Child, cluster
from benchmarks.verdict import number_of
from benchmarks.workers import Tabular
from schemas import dead_letters
from tests.services import ServiceError, unique

PARTITIONS = 5
P99_MAX_MS = 30.0
TOLD_EVERY_S = 60.0
PATIENCE_S = 60.0
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class Timed(Reader):
    """When each event's prediction was read, by its number; 0 while it was not."""

    def __init__(self, bootstrap: str, target: str, count: int) -> None:
        super().__init__(bootstrap, {target: dict.fromkeys(range(PARTITIONS), 0)})
        self.received_s = np.zeros(count)
        self.count = self.again = 0

    def take(self, messages: Sequence[Any]) -> None:
        """Note the time of each."""
        now = time.perf_counter()
        for message in messages:
            number = number_of(message.key())
            self.again += self.received_s[number] > 0
            self.received_s[number] = self.received_s[number] or now
        self.count += len(messages)


class Sender:
    """Sends valid events at a fixed rate on a thread of its own, and remembers when."""

    def __init__(self, bootstrap: str, topic: str, count: int, rate: int) -> None:
        self.sent_s = array("d", bytes(8 * count))
        self._topic, self._count, self._rate = topic, count, rate
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1, "log_level": 4}
        )
        self.thread = threading.Thread(target=self._send, name="sender", daemon=True)

    def _send(self) -> None:
        tails = events.tabular().tails
        due = time.perf_counter()
        for number in range(self._count):
            due += 1 / self._rate
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            key = b"%09d" % number
            self.sent_s[number] = time.perf_counter()
            value = b'{"event_id":"%b",%b' % (key, tails[number % len(tails)])
            self._producer.produce(self._topic, value, key, number % PARTITIONS)
            self._producer.poll(0)
        self._producer.flush(30)


class Waits(NamedTuple):
    """Milliseconds from sent to read, of `events`; how many have no answer, and how many came again."""

    events: int
    missing: int
    again: int
    ms: dict[str, float]


def main() -> None:
    """Run, print and keep the figures."""
    options = _options()
    with cluster(options.bootstrap) as servers, TemporaryDirectory(prefix="streamer-longrun-") as temp:
        count = int(options.minutes * 60 * options.rate)
        job = Job(servers, Tabular.source, Tabular.target, unique("longrun"), Path(temp))
        waits = measure(job, count, options)
    command = f"python -m benchmarks.longrun --minutes {options.minutes:g} --delivery {options.delivery}"
    found = figures(waits, f"long run, {options.delivery}, {options.rate:,}/s", command)
    print(report.table([["what", "ours"], *([figure.what, f"{figure.ours:,.1f}"] for figure in found)]))
    print(report.goals(found))
    report.write(found, options.out)
    if waits.missing or waits.again:
        sys.exit(
            f"longrun: of {waits.events:,} events {waits.missing} have no answer; {waits.again} answers came again"
        )


def measure(job: Job, count: int, options: argparse.Namespace) -> Waits:
    """Send `count` events to a worker at the rate, and time every answer.

    Raises:
        ServiceError: the worker ended, or does not answer.
    """
    topics = [job.source, job.target, dead_letters(job.source)]
    renew_topics(job.servers.bootstrap, topics, PARTITIONS)
    reader = Timed(job.servers.bootstrap, job.target, count)
    sender = Sender(job.servers.bootstrap, job.source, count, options.rate)
    with Streamer("streamer", Tabular, options.delivery, options.rate).start(job) as child:
        child.wait_until_ready()
        reader.start()
        sender.thread.start()
        read_all(reader, child, sender.sent_s, count)
    reader.read_to_end()
    reader.close()
    return waits_of(np.asarray(sender.sent_s), reader, options.rate * 60 * options.cut)


def read_all(reader: Timed, child: Child, sent_s: Sequence[float], count: int) -> None:
    """Read until as many answers are there as events were sent; says how it goes, once a minute."""
    moved = told = time.monotonic()
    while reader.count < count:
        child.check()
        now = time.monotonic()
        if reader.read(0.05):
            moved = now
        elif now - moved > PATIENCE_S:
            raise ServiceError(f"{reader.count:,} of {count:,} answers, and none more in {PATIENCE_S:.0f} s")
        if now - told >= TOLD_EVERY_S:
            told = now
            lately = slice(max(0, reader.count - int(TOLD_EVERY_S * 500)), reader.count)
            waits = waits_ms(reader.received_s[lately], np.asarray(sent_s)[lately])
            p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
            report.tell(f"{reader.count:,} of {count:,}; lately p50 {p50:.1f}, p99 {p99:.1f} ms")


def waits_of(sent_s: NDArray[np.float64], reader: Timed, cut: float) -> Waits:
    """What counts: every event must have one answer, and the time of those after the cut is told."""
    missing = int((reader.received_s == 0).sum())
    counted = np.arange(len(sent_s)) >= cut
    waits = waits_ms(reader.received_s[counted], sent_s[counted])
    return Waits(len(sent_s), missing, reader.again, {name: percentile(waits, share) for name, share in SHARES.items()})


def waits_ms(received_s: NDArray[np.float64], sent_s: NDArray[np.float64]) -> list[float]:
    """How long each event took that has an answer, in order."""
    answered = received_s > 0
    return np.sort((received_s[answered] - sent_s[answered]) * 1000).tolist()  # type: ignore[no-any-return]


def figures(waits: Waits, what: str, command: str) -> list[Figure]:
    """The counts and the percentiles; the goal is that of exactly-once's p99."""
    answered = report.exactly(f"{what}: events answered once", waits.events - waits.missing, waits.events, command)
    times = [report.shown(f"{what}: {name} ms", ms, command) for name, ms in waits.ms.items() if name != "p99"]
    return [answered, *times, report.at_most(f"{what}: p99 ms", waits.ms["p99"], None, P99_MAX_MS, command)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.longrun", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long (%(default)g)")
    parser.add_argument(
        "--cut", type=float, default=5, metavar="MINUTES", help="not counted at the start (%(default)g)"
    )
    parser.add_argument("--rate", type=int, default=1_000, help="events a second (%(default)s)")
    parser.add_argument("--delivery", choices=GUARANTEES, default="exactly_once", help="guarantee (%(default)s)")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a broker of yours (default: start one)")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "longrun.json", help="where the figures are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
