"""Predictions and dead letters as a reader of committed records gets them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Message, TopicPartition

from schemas import Prediction, dead_letters
from streamer.demo.simulator import EVENT_ID
from streamer.demo.tally import Tally
from streamer.wire import headers
from streamer.worker import Worker

METADATA_S = 10.0
WORDS_MAX = 50
WORDS_EVERY_S = 0.25
"""The shortest time between two shown predictions of a worker: nobody reads faster."""


class Said(NamedTuple):
    """One prediction for the screen; `latency_s` from event to receipt."""

    at: datetime
    key: str
    words: str
    latency_s: float
    cached: bool


class Reader:
    """Reads the targets and dead letters from their current end on, in a thread of its own."""

    def __init__(self, client: Mapping[str, str], workers: Sequence[Worker[Any, Any]], run: str, tally: Tally) -> None:
        self._consumer = Consumer(
            {
                **client,
                "group.id": f"streamer-demo-{run}-reader",  # never joined: partitions are assigned by hand
                "isolation.level": "read_committed",
                "enable.auto.commit": "false",
                "fetch.queue.backoff.ms": "1",
                "fetch.wait.max.ms": "5",  # a mock broker waits all of this time before it looks again
            },
            logger=logging.getLogger("librdkafka"),
        )
        self._targets = {worker.target: worker for worker in workers}
        self._dead = [dead_letters(worker.source) for worker in workers]
        self._run_id = run
        self._tally = tally
        self._said_at: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self.said: deque[Said] = deque(maxlen=WORDS_MAX)

    def start(self) -> None:
        """Find the ends of the topics, which must exist, and read from there until `stop`."""
        places = []
        for topic in (*self._targets, *self._dead):
            for partition in self._consumer.list_topics(topic, timeout=METADATA_S).topics[topic].partitions:
                place = TopicPartition(topic, partition)
                place.offset = self._consumer.get_watermark_offsets(place, timeout=METADATA_S)[1]
                places.append(place)
        self._consumer.assign(places)
        self._thread.start()

    def stop(self) -> None:
        """Read nothing more."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(1, 0.1) + self._consumer.consume(500, 0):
                if message.error() is None:
                    self._read(message, time.monotonic())

    def _read(self, message: Message, at: float) -> None:
        worker = self._targets.get(message.topic() or "")
        if worker is None:
            said: Any = message.headers()
            event_id = (headers.last(said, EVENT_ID) or b"").decode()
            if event_id.startswith(self._run_id):
                self._tally.dead_lettered(event_id, at)
            return
        prediction = Prediction[worker.answer].model_validate_json(message.value() or b"")  # type: ignore[name-defined]
        if not prediction.event_id.startswith(self._run_id):
            return  # of another producer, on a shared broker
        latency_s = self._tally.predicted(prediction.event_id, at)
        if latency_s is not None and at - self._said_at.get(worker.name, 0.0) >= WORDS_EVERY_S:
            self._said_at[worker.name] = at
            words = worker.words(prediction.answer)
            self.said.append(Said(datetime.now(), prediction.key, words, latency_s, prediction.cache == "hit"))
