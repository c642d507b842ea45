"""Row 16 of the fault matrix, and what it leaves out: a record that kills or hangs the process that serves it."""

from __future__ import annotations

import ctypes
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamer import app
from streamer.worker import Features, Tensors
from tests.echo import Ping
from tests.faults.stream import Stream
from tests.faults.worker_main import SlowEcho
from tests.services import Kafka

HUNG_S = 2.0
LIVES_MAX = 8
STATIC = {"group.instance.id": "a"}  # a successor takes its predecessor's place at once, not after its session

pytestmark = pytest.mark.timeout(180)


def arm() -> None:
    """In the worker's process: events may kill it."""
    encode = SlowEcho.encode
    app.STALE_S = app.WATCHDOG_GRACE_S = HUNG_S / 2

    def deadly(self: SlowEcho, events: Sequence[Ping], features: Sequence[Features]) -> Tensors:
        for event in events:
            if event.fault == "segfault":
                ctypes.string_at(0)
            if event.fault == "hang":
                time.sleep(3_600)
            if event.fault == "spin":  # keeps the interpreter: no other Python thread runs
                re.match(r"(a+)+$", "a" * 60 + "b")
        return encode(self, events, features)

    SlowEcho.encode = deadly  # type: ignore[method-assign]


def write_killer(stream: Stream, kind: str) -> None:
    event = {"event_id": "killer", "occurred_at": "2026-01-01T00:00:00Z", "number": 1, "name": "k1", "fault": kind}
    producer = Producer({"bootstrap.servers": stream.kafka.bootstrap})
    producer.produce(stream.source, json.dumps(event).encode(), "k1")
    assert producer.flush(30) == 0


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("segfault", -11, ""),
        ("hang", 75, "in deadly"),
        pytest.param("spin", 1, "in deadly", marks=pytest.mark.slow),
    ],
)
def test_a_record_that_ends_its_process_becomes_a_dead_letter(
    kafka: Kafka, tmp_path: Path, kind: str, status: int, said: str
) -> None:
    """Fault: one record makes the model segfault, hang, or loop with the interpreter held. Expected: a supervisor's
    restarts are enough; the record becomes a dead letter `crash`, every other one is answered once and in order; a
    hang says where. Oracle: the record by record comparison."""
    deaths = []
    with Stream(kafka, tmp_path, rate=200) as stream:
        write_killer(stream, kind)
        while True:
            worker = stream.start(
                "a", client=STATIC, before=arm, settings={"batch": {"items_max": 64, "timeout_s": HUNG_S / 2}}
            )
            letters = 0
            while worker.alive() and not letters:
                letters = sum(one.outcome == "dead letter" for one in stream.outputs())
            if letters:
                break
            deaths.append(worker.wait(10))
            assert said in worker.log()
            assert len(deaths) <= LIVES_MAX, worker.log()[-2000:]
        report = stream.finish()
    assert report.complaints == {}, report
    assert deaths == [status] * 4


@pytest.mark.slow
def test_a_killer_would_stop_its_partition_for_ever_without_marks(kafka: Kafka, tmp_path: Path) -> None:
    """Planted bug: each life has a disk of its own, so nothing is remembered."""
    with Stream(kafka, tmp_path, rate=200) as stream:
        write_killer(stream, "segfault")
        for life in range(6):
            worker = stream.start(f"a{life}", client=STATIC, before=arm)
            assert worker.wait(30) == -11
        assert not [one for one in stream.outputs() if one.outcome == "dead letter"]
