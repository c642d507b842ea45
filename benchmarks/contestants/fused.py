"""The limit: consume, work and produce in one hand-written loop, with nothing that a promise would cost.

No validation beyond types, no dead letters, no order across a failure, one consumer: what is left is librdkafka,
msgspec, numpy and torch. A batch is the first record and whatever else is there, so none waits for a window.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from benchmarks import work
from benchmarks.contestants import common

WAIT_S = 0.1
FLUSH_S = 10.0


class Delivery(Protocol):
    """When outputs and positions become durable."""

    producer: Producer

    def begin(self) -> None:
        """Outputs follow."""

    def commit(self) -> None:
        """Make all outputs since `begin` durable, and the positions with them."""


class AtLeastOnce:
    """Outputs are flushed, then the positions committed without waiting for the answer."""

    def __init__(self, bootstrap: str, consumer: Consumer, _group: str) -> None:
        self._failed: list[KafkaError] = []
        reports = {"delivery.report.only.error": True, "on_delivery": lambda error, _: self._failed.append(error)}
        self.producer = Producer({"bootstrap.servers": bootstrap, **common.PRODUCER, **reports})
        self._consumer = consumer

    def begin(self) -> None:
        """Nothing to do."""

    def commit(self) -> None:
        if self.producer.flush(FLUSH_S) or self._failed:
            raise SystemExit(f"fused: the broker has not acknowledged all outputs: {self._failed or 'no answer'}")
        self._consumer.commit(asynchronous=True)


class ExactlyOnce:
    """Outputs and positions in one transaction."""

    def __init__(self, bootstrap: str, consumer: Consumer, group: str) -> None:
        self.producer = Producer({"bootstrap.servers": bootstrap, **common.PRODUCER, "transactional.id": group})
        self._consumer = consumer
        self.producer.init_transactions(30)
        self.begin = self.producer.begin_transaction

    def commit(self) -> None:
        read = self._consumer.position(self._consumer.assignment())
        positions = [position for position in read if position.offset >= 0]
        self.producer.send_offsets_to_transaction(positions, self._consumer.consumer_group_metadata(), FLUSH_S)
        self.producer.commit_transaction(FLUSH_S)


def serve(consumer: Consumer, delivery: Delivery, todo: work.Work, target: str, commit_s: float) -> None:
    """Until SIGTERM: the first record and what else is there, one forward pass, one produce an output."""
    stop = common.Stop()
    produce, serve_producer = delivery.producer.produce, delivery.producer.poll
    due: float | None = None  # None: all is durable
    while not stop:
        wait_s = WAIT_S if due is None else max(due - time.perf_counter(), 0.0)
        if (first := consumer.poll(wait_s)) is not None:
            messages = good([first, *consumer.consume(todo.batch_max - 1, 0)])
            if due is None:
                delivery.begin()
                due = time.perf_counter() + commit_s
            outputs = todo.run([message.value() for message in messages])
            for message, output in zip(messages, outputs, strict=True):
                if output is not None:
                    produce(target, output, message.key())
            serve_producer(0)
        if due is not None and time.perf_counter() >= due:
            delivery.commit()
            due = None
    if due is not None:
        delivery.commit()


def good(messages: list[Any]) -> list[Any]:
    """The records; what the client only reports and mends itself is left out.

    Raises:
        KafkaException: it cannot mend it.
    """
    records = [message for message in messages if message.error() is None]
    for message in messages if len(records) < len(messages) else ():
        if (error := message.error()) is not None and error.fatal():
            raise KafkaException(error)
    return records


def main() -> None:
    """Serve what the command line says."""
    parser = common.parser(__doc__)
    parser.add_argument("--delivery", choices=("at_least_once", "exactly_once"), default="at_least_once")
    parser.add_argument("--commit-ms", type=float, default=100, metavar="MS", help="between two commits")
    options = parser.parse_args()
    todo = work.make(options.work)
    consumer = Consumer({"bootstrap.servers": options.bootstrap, "group.id": options.group, **common.CONSUMER})
    kind = AtLeastOnce if options.delivery == "at_least_once" else ExactlyOnce
    delivery = kind(options.bootstrap, consumer, options.group)
    consumer.subscribe([options.source])
    serve(consumer, delivery, todo, options.target, options.commit_ms / 1000)
    consumer.close()


if __name__ == "__main__":
    main()
