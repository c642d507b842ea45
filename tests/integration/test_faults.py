"""Processes die, freeze, move and meet; every input still has exactly one outcome, in order.

Real Kafka, real processes, a producer that writes on all the while. Sizes are constants, to be raised for a long run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.stream import PROTOCOLS, Stream
from tests.faults.worker_main import POINTS
from tests.services import Kafka

pytestmark = pytest.mark.timeout(240)


def die_at_each(stream: Stream, points: Sequence[str], slots: Sequence[str] = ("a", "b"), **options: object) -> None:
    """Start a worker in each slot, one after the other, until one has died at every point."""
    left = [(point, 1 if "init" in point else 3 + number % 5) for number, point in enumerate(points)]
    running = {slot: stream.start(slot, die_at=left.pop(), **options) for slot in slots}
    deadline = time.monotonic() + 15 * len(points)
    while running:
        assert time.monotonic() < deadline, {slot: worker.plan.die_at for slot, worker in running.items()}
        for slot, worker in list(running.items()):
            if not worker.alive():
                assert worker.wait(0) == -signal.SIGKILL, worker.log()[-3000:]
                del running[slot]
                if left:
                    running[slot] = stream.start(slot, die_at=left.pop(), **options)
        time.sleep(0.05)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_kill_9_at_every_step(kafka: Kafka, tmp_path: Path, protocol: str) -> None:
    with Stream(kafka, tmp_path, protocol=protocol) as stream:
        die_at_each(stream, POINTS)
        stream.start("a")
        report = stream.finish()
    assert report.complaints == {}, report
