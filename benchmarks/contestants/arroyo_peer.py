"""Arroyo (sentry-arroyo): BatchStep, a RunTask that scores and publishes a batch, CommitOffsets.

Its own steps for publishing, UnbatchStep and Produce, make several objects and a future for each event: with them it
does less than half as many events a second. At least once: the task ends when its outputs are flushed, and positions
are committed after it, every 100 ms. As in the fused loop, an output that the broker refuses for good is not noticed.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

from arroyo.backends.kafka import KafkaConsumer, KafkaPayload
from arroyo.commit import CommitPolicy
from arroyo.processing.processor import StreamProcessor
from arroyo.processing.strategies import (
    BatchStep,
    CommitOffsets,
    ProcessingStrategy,
    ProcessingStrategyFactory,
    RunTask,
)
from arroyo.processing.strategies.batching import ValuesBatch
from arroyo.types import Commit, Message, Partition, Topic
from confluent_kafka import Producer

from benchmarks import work
from benchmarks.contestants import common

COMMIT_S = 0.1
WINDOW_S = 0.01
FLUSH_S = 10.0
STOP_S = 5.0


class Strategy(ProcessingStrategyFactory[KafkaPayload]):
    """The chain of steps, made anew for each assignment."""

    def __init__(self, todo: work.Work, producer: Producer, target: str) -> None:
        self._todo, self._producer, self._target = todo, producer, target

    def create_with_partitions(
        self, commit: Commit, partitions: Mapping[Partition, int]
    ) -> ProcessingStrategy[KafkaPayload]:
        """The steps, the last one innermost."""
        return BatchStep(self._todo.batch_max, WINDOW_S, RunTask(self._publish, CommitOffsets(commit)))

    def _publish(self, message: Message[ValuesBatch[KafkaPayload]]) -> None:
        events = [event.payload for event in message.payload]
        for event, output in zip(events, self._todo.run([event.value for event in events]), strict=True):
            if output is not None:
                self._producer.produce(self._target, output, event.key)
        if left := self._producer.flush(FLUSH_S):
            raise TimeoutError(
                f"arroyo: {left} outputs are not acknowledged after {FLUSH_S:.0f} s; is the broker there?"
            )


def main() -> None:
    """Serve what the command line says."""
    options = common.options()
    todo = work.make(options.work)
    broker = {"bootstrap.servers": options.bootstrap}
    processor = StreamProcessor(
        KafkaConsumer({**broker, **common.CONSUMER, "enable.auto.offset.store": False, "group.id": options.group}),
        Topic(options.source),
        Strategy(todo, Producer({**broker, **common.PRODUCER}), options.target),
        CommitPolicy(COMMIT_S, None),
        join_timeout=STOP_S,
    )
    signal.signal(signal.SIGTERM, lambda *_: processor.signal_shutdown())
    processor.run()


if __name__ == "__main__":
    main()
