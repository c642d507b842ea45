"""Sends events to the source topic, all at once or at a rate. Their partition and offset are known when they are sent,
because nobody else writes to the topic and the client keeps the order of a partition."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streamer.bench.broker import Places
from streamer.bench.events import Pair
from streamer.errors import BadData, Exit, Unreachable
from streamer.kafka import clients
from streamer.settings import Settings
from streamer.wire import headers

FLUSH_S = 35.0
"""Longer than the producer retries (message.timeout.ms)."""
HEADERS = [(headers.CONTENT_TYPE, b"application/json")]
TOLD_EACH = 1_000

Place = tuple[int, int]
"""Partition and offset of an event in the source topic."""


class Sender:
    """Writes to a source topic that nobody else writes to."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._producer: Any = clients.producer(settings, linger_ms="1", delivery_report_only_error=True)
        self._places = places
        self._next = [0] * places.partitions
        self._failed: list[str] = []
        self._ended_by: Exit | None = None
        self.sent_s: dict[Place, float] = {}
        """When each event was sent at a rate, on the performance counter's clock."""

    @property
    def sent(self) -> int:
        """Events so far."""
        return sum(self._next)

    def send_all(self, events: Sequence[Pair], told: Callable[[int], None]) -> None:
        """Send as fast as the broker takes them, and wait until it has them all.

        Raises:
            Unreachable: the broker has not taken some of them.
            BadData: an event is larger than the client sends.
        """
        for number, event in enumerate(events, start=1):
            self._send(event, self._partition(event))
            if number % TOLD_EACH == 0:
                told(TOLD_EACH)
                self._producer.poll(0)
        self.finish()

    def greet(self, events: Iterable[Pair]) -> None:
        """Send an event to each partition, and wait until the broker has them. Raises as `send_all`."""
        for partition, event in enumerate(events):
            self._send(event, partition)
        self.finish()

    def send_at(self, rate: float, events: Sequence[Pair]) -> threading.Thread:
        """Send at `rate` a second from a thread of its own, which ends with the last event."""
        thread = threading.Thread(target=self._send_at, args=(1 / rate, events), name="sender", daemon=True)
        thread.start()
        return thread

    def finish(self) -> None:
        """Wait until the broker has every event.

        Raises:
            Unreachable: the broker has not taken some of them.
            BadData: an event was larger than the client sends.
        """
        if self._ended_by is not None:
            raise self._ended_by
        left = self._producer.flush(FLUSH_S)
        if left or self._failed:
            why = self._failed[0] if self._failed else "it does not answer"
            raise Unreachable(f"the broker has not taken {left + len(self._failed)} of {self.sent} events: {why}")

    def _send_at(self, interval_s: float, events: Sequence[Pair]) -> None:
        due = time.perf_counter()
        for event in events:
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            due += interval_s
            partition = self._partition(event)
            self.sent_s[partition, self._next[partition]] = time.perf_counter()
            try:
                self._send(event, partition)
            except Exit as error:  # for the thread that waits in `finish`
                self._ended_by = error
                return
            self._producer.poll(0)

    def _partition(self, event: Pair) -> int:
        return zlib.crc32(event[0]) % self._places.partitions

    def _send(self, event: Pair, partition: int) -> None:
        key, value = event
        while True:
            try:
                self._producer.produce(
                    self._places.source, value, key, partition, headers=HEADERS, on_delivery=self._delivered
                )
                break
            except BufferError:  # the queue is full: let it drain
                self._producer.poll(0.1)
            except KafkaException as error:
                raise BadData(f"an event of {len(value):,} bytes: {error.args[0].str()}") from error
        self._next[partition] += 1

    def _delivered(self, error: KafkaError | None, _: Any) -> None:
        if error is not None:
            self._failed.append(error.str())
