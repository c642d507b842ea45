"""From the call that sends an event until a careful reader has its answer, at a rate that the worker can keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from confluent_kafka import Producer

from benchmarks.answers import Outputs
from benchmarks.events import Record

WARM_UP_S = 1.0
"""What is sent in the first second does not count."""


class Latency(NamedTuple):
    """Milliseconds, of `events` at `rate` a second."""

    rate: int
    events: int
    p50_ms: float
    p99_ms: float


class Sender:
    """Sends records at a fixed rate on a thread of its own, and remembers when it sent each."""

    def __init__(self, bootstrap: str, topic: str, records: Sequence[Record], rate: int) -> None:
        self.sent_s: dict[str, float] = {}
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
        for record in self._records:
            due += self._interval_s
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            self.sent_s[record.event_id] = time.perf_counter()
            self._producer.produce(self._topic, record.value, record.key)
            self._producer.poll(0)


class Receiver:
    """Notes when each answer is read: the progress call of `Outputs.read_until`."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self.received_s: dict[str, float] = {}

    def __call__(self, found: int) -> None:
        now = time.perf_counter()
        for answer in self._outputs.answers[-found:]:
            self.received_s.setdefault(answer.event_id, now)


def summarise(rate: int, sent_s: dict[str, float], received_s: dict[str, float]) -> Latency:
    """Percentiles of what was sent after the first second and answered with a prediction."""
    began = min(sent_s.values()) + WARM_UP_S
    waits = sorted(
        (received_s[event_id] - sent) * 1000
        for event_id, sent in sent_s.items()
        if sent >= began and event_id in received_s
    )
    return Latency(rate, len(waits), percentile(waits, 0.5), percentile(waits, 0.99))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values are; not a number when there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
