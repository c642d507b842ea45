"""Predictions and dead letters as a reader of committed records gets them, compared with the sent events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streamer.bench.broker import Places
from streamer.bench.sending import Place
from streamer.errors import Unreachable
from streamer.kafka import clients
from streamer.settings import Settings
from streamer.wire import headers

STALL_S = 30.0
CHUNK = 5_000


class Counts(msgspec.Struct, frozen=True):
    """The outcomes of a run. Each event counts once: `repeated` are further outcomes of one event, `unordered` are
    predictions that came after one of a later event of their partition, `cached` predictions came from the cache."""

    sent: int
    predicted: int
    cached: int
    dead: int
    skipped: int
    repeated: int
    unordered: int
    dead_reasons: dict[str, int]

    @property
    def lost(self) -> int:
        """The number of events without an outcome; negative when there are more outcomes than events."""
        return self.sent - self.predicted - self.dead - self.skipped

    def faults(self, delivery: str) -> list[str]:
        """The violations of this delivery guarantee; empty when all is well."""
        found = []
        if self.lost:
            what = "events have no outcome" if self.lost > 0 else "outcomes belong to no event that was sent"
            found.append(f"{abs(self.lost):,} {what}")
        if self.repeated and delivery == "exactly_once":
            found.append(f"{self.repeated:,} outcomes came more than once")
        if self.unordered:
            found.append(f"{self.unordered:,} predictions came out of order")
        return found


class _Source(msgspec.Struct):
    partition: int
    offset: int


class _Envelope(msgspec.Struct):
    source: _Source
    cache: str


_decode = msgspec.json.Decoder(_Envelope).decode


class Outcomes:
    """Reads the target and the dead letters of a run from their beginning on."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._consumer: Any = clients.consumer(
            settings, f"{places.group}.reader", fetch_wait_max_ms="10", fetch_queue_backoff_ms="1"
        )
        self._reached = {
            (topic, partition): 0 for topic in (places.target, places.dead) for partition in range(places.partitions)
        }
        self._latest: dict[int, int] = {}
        self._predicted = self._cached = self._repeated = self._unordered = 0
        self._reasons: Counter[str] = Counter()
        self.received_s: dict[Place, float] = {}
        """When each event's first outcome was received, on the performance counter's clock."""
        self.times_ms: list[int] = []
        """The timestamp of each outcome."""
        self._consumer.assign([TopicPartition(*at, OFFSET_BEGINNING) for at in self._reached])

    def read(self, timeout_s: float) -> int:
        """Take the messages that have come and return their number; wait at most `timeout_s` for the first.

        Raises:
            Unreachable: the broker refuses.
        """
        messages: list[Any] = self._consumer.consume(1, timeout_s)
        if messages:
            messages += self._consumer.consume(CHUNK, 0)
        now, count = time.perf_counter(), 0
        for message in messages:
            if (error := message.error()) is None:
                self._take(message, now)
                count += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._reached[message.topic(), message.partition()] = message.offset()
            elif error.fatal() or not error.retriable():
                self._refused(error)
        return count

    def read_to_end(self, told: Callable[[int], None]) -> None:
        """Read to the end of both topics; call it when nothing more is written.

        Raises:
            Unreachable: the broker refuses, or a transaction stays open.
        """
        with clients.explained(self._consumer, self._settings):
            ends = {
                at: self._consumer.get_watermark_offsets(TopicPartition(*at), timeout=clients.TIMEOUT_S)[1]
                for at in self._reached
            }
        give_up = time.monotonic() + STALL_S
        while any(self._reached[at] < end for at, end in ends.items()):
            if count := self.read(0.2):
                told(count)
                give_up = time.monotonic() + STALL_S
            elif time.monotonic() > give_up:
                raise Unreachable(f"{self._places.target} cannot be read to its end: a transaction is still open")

    def counts(self, sent: int, skipped: int) -> Counts:
        """The outcomes of `sent` events; `skipped` is the worker's own count."""
        dead = self._reasons.total()
        return Counts(
            sent=sent,
            predicted=self._predicted,
            cached=self._cached,
            dead=dead,
            skipped=skipped,
            repeated=self._repeated,
            unordered=self._unordered,
            dead_reasons=dict(self._reasons.most_common()),
        )

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _take(self, message: Any, now: float) -> None:
        if message.topic() == self._places.dead:
            letter = headers.dead_letter(message.headers())
            if self._is_first(letter.source.partition, letter.source.offset, message, now):
                self._reasons[letter.reason] += 1
            return
        envelope = _decode(message.value())
        partition, offset = envelope.source.partition, envelope.source.offset
        if not self._is_first(partition, offset, message, now):
            return
        self._predicted += 1
        self._cached += envelope.cache == "hit"
        self._unordered += offset < self._latest.get(partition, -1)
        self._latest[partition] = offset

    def _is_first(self, partition: int, offset: int, message: Any, now: float) -> bool:
        if (partition, offset) in self.received_s:
            self._repeated += 1
            return False
        self.received_s[partition, offset] = now
        self.times_ms.append(message.timestamp()[1])
        return True

    def _refused(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            with clients.explained(self._consumer, self._settings):
                raise KafkaException(error)


def waits_s(sent_s: dict[Place, float], received_s: dict[Place, float], after_s: float) -> Sequence[float]:
    """The latency in seconds of each event that was sent at least `after_s` after the first one."""
    began = min(sent_s.values(), default=0.0) + after_s
    return [received_s[place] - sent for place, sent in sent_s.items() if sent >= began and place in received_s]
