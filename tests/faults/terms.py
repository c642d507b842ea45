"""SIGTERM in the middle of the work, many times: every end is clean and quick.

python -m tests.faults.terms --count 1000
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.stream import Stream
from tests.services import start_kafka

SLOTS = ("a", "b", "c")
GRACE_S = 25.0  # drain_s, which a supervisor's own patience must exceed


@dataclass(frozen=True)
class Stop:
    """How one worker ended after SIGTERM."""

    code: int
    seconds: float
    left: bool

    @property
    def clean(self) -> bool:
        """Exit status 0, within the grace, with nothing left undone."""
        return self.code == 0 and self.seconds <= GRACE_S and not self.left


def stop_many(stream: Stream, count: int, seed: int, **options: object) -> list[Stop]:
    """Three workers serve; one after the other is stopped at a random moment of its work and replaced."""
    chance = random.Random(seed)
    running = {slot: stream.start(slot, **options) for slot in SLOTS}  # type: ignore[arg-type]
    stops = []
    for number in range(count):
        worker = running[slot := SLOTS[number % len(SLOTS)]]
        worker.wait_for("partitions assigned")
        time.sleep(chance.uniform(0, 0.3))
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        code = worker.wait(60)
        stops.append(Stop(code, time.monotonic() - began, "these records are left" in worker.log()))
        if number < count - len(SLOTS):
            running[slot] = stream.start(slot, **options)  # type: ignore[arg-type]
    stream.start("last", **options)  # type: ignore[arg-type]
    return stops


def summary(stops: list[Stop]) -> str:
    """The figures in a line."""
    seconds = sorted(stop.seconds for stop in stops)
    p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
    clean = sum(stop.clean for stop in stops)
    return f"{clean}/{len(stops)} clean, drained in p50 {statistics.median(seconds):.2f} s, p99 {p99:.2f} s"


def main() -> None:
    """Stop as often as asked, and print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    with start_kafka() as kafka, tempfile.TemporaryDirectory() as folder, Stream(kafka, Path(folder)) as stream:
        stops = stop_many(stream, chosen.count, chosen.seed, seconds_per_batch=0.05)
        report = stream.finish()
    print(summary(stops))
    sys.exit(bool(report.complaints) or not all(stop.clean for stop in stops))


if __name__ == "__main__":
    main()
