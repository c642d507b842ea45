"""A source that ends: it reads the records of each partition before an offset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, TopicPartition

from streamer.kafka.source import KafkaSource
from streamer.records import Positions
from streamer.slices import Slice


class Span(Protocol):
    """A range that a worker answers and then ends."""

    ends: Positions
    """The first offset beyond the range, by partition."""

    def watch(self, stop: Callable[[], None]) -> None:
        """Wait until the range is answered, on a thread of its own, and stop the worker."""


class RangedSource(KafkaSource):
    """Reads as `KafkaSource` does, and returns no record from `ends` on."""

    def __init__(self, client: Mapping[str, str], topic: str, ends: Positions) -> None:
        super().__init__(client, topic, "earliest")
        self._until = ends

    def lag(self) -> dict[int, int]:
        return {
            partition: min(lag, max(0, self._until.get(partition, 0) - self._positions[partition]))
            for partition, lag in super().lag().items()
        }

    def rewind(self, positions: Positions) -> None:
        super().rewind(positions)
        if not self._paused:  # else `_resume` does it
            self._consumer.resume(self._topic_partitions(positions.keys() & self._positions.keys()))

    def _take(self, messages: Sequence[Any]) -> list[Slice]:
        wanted = []
        for read in super()._take(messages):
            end = self._until.get(read.partition, 0)
            if read.offsets[-1] >= end:
                self._consumer.pause(self._topic_partitions([read.partition]))  # nobody wants what follows
            if (before := read.before(end)) is not None:
                wanted.append(before)
        return wanted

    def _unassign(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        consumer.resume(gone)  # the client remembers a pause: one that comes back would never be read again
        super()._unassign(consumer, gone)
