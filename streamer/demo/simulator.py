"""Events at a rate, from the workers' own `sample`, some broken on purpose."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import Producer

from schemas import Event
from streamer.demo.tally import Tally
from streamer.wire import headers
from streamer.worker import Worker

EVENT_ID = "streamer-demo-event"
"""The header that identifies the event of a dead letter: a broken value may have lost its id."""
BROKEN = 0.02
IN_FLIGHT_MAX = 4_000
"""With this many unanswered events the simulator waits: a mock broker drops what it cannot keep."""
FLUSH_S = 10.0

Break = Callable[[dict[str, Any]], bytes]


def _truncated(event: dict[str, Any]) -> bytes:
    text = json.dumps(event).encode()
    return text[: len(text) // 2]


def _wrong_type(event: dict[str, Any]) -> bytes:
    return json.dumps({**event, "event_id": 17}).encode()


def _missing_field(event: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in event.items() if name != "occurred_at"}).encode()


def _not_a_number(event: dict[str, Any]) -> bytes:
    return json.dumps({**event, "event_id": float("nan")}).encode()


WAYS_TO_BREAK: tuple[Break | None, ...] = (_truncated, _wrong_type, _missing_field, _not_a_number, None)
"""None: the event is valid, but its record has no key."""


class Made(NamedTuple):
    """One record to be sent. `outcome` is what must become of it: ok, dlq or skipped."""

    event_id: str
    topic: str
    key: bytes | None
    value: bytes
    outcome: str


class Simulation:
    """Makes records; the same seed makes the same records, except for `run` and the time in them."""

    def __init__(self, workers: Sequence[Worker[Any, Any]], run: str, seed: int) -> None:
        self._workers = workers
        self._run = run
        self._random = Random(seed)  # noqa: S311
        self._made = dict.fromkeys(range(len(workers)), 0)

    def record(self, now: datetime) -> Made:
        """The next record, of a randomly chosen worker."""
        at = self._random.randrange(len(self._workers))
        worker, number = self._workers[at], self._made[at]
        self._made[at] += 1
        event_id = f"{self._run}-{worker.name}-{number}"
        event: Event = worker.sample(self._random, number)
        event = event.model_copy(update={"event_id": event_id, "occurred_at": now})
        made = Made(event_id, worker.source, event.key.encode(), event.model_dump_json().encode(), "ok")
        if self._random.random() < BROKEN:
            way = self._random.choice(WAYS_TO_BREAK)
            if way is None:
                return made._replace(key=None, outcome="dlq")
            return made._replace(value=way(event.model_dump(mode="json")), outcome="dlq")
        return made if worker.accepts(event) else made._replace(outcome="skipped")


class Simulator:
    """Sends records from a thread of its own, on average `rate` a second, at random intervals as calls come in."""

    def __init__(self, client: Mapping[str, str], simulation: Simulation, rate: float, tally: Tally) -> None:
        self._producer = Producer(
            {
                **client,
                "enable.idempotence": "true",
                "partitioner": "murmur2_random",
                "linger.ms": "1",
                "message.timeout.ms": "30000",
            },
            logger=logging.getLogger("librdkafka"),
        )
        self._simulation = simulation
        self._rate = rate
        self._tally = tally
        self._pauses = Random()  # noqa: S311
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)

    def start(self) -> None:
        """Send until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more, and wait until every sent record is acknowledged or has failed."""
        self._stopping.set()
        self._thread.join(FLUSH_S)
        self._producer.flush(FLUSH_S)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            if (wait_s := due - time.monotonic()) > 0:
                self._producer.poll(0)
                self._stopping.wait(wait_s)
            elif self._tally.in_flight() >= IN_FLIGHT_MAX:
                self._producer.poll(0.01)
                due = time.monotonic()  # events that could not be sent in time are not made up for
            else:
                self._send(self._simulation.record(datetime.now(UTC)))
                due += self._pauses.expovariate(self._rate)

    def _send(self, made: Made) -> None:
        self._tally.sent(made.event_id, made.outcome, time.monotonic())
        self._producer.produce(
            made.topic,
            made.value,
            made.key,
            headers=[(headers.CONTENT_TYPE, b"application/json"), (EVENT_ID, made.event_id.encode())],
            on_delivery=partial(self._delivered, made.event_id),
        )
        self._producer.poll(0)

    def _delivered(self, event_id: str, error: Any, _: Any) -> None:
        if error is None:
            self._tally.delivered()
        else:
            self._tally.not_delivered(event_id)
