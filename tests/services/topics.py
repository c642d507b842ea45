"""What tests do with topics: make one, fill it, read what a careful reader sees."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
)
from confluent_kafka import TopicPartition as Partition
from confluent_kafka.admin import NewTopic, OffsetSpec  # type: ignore[attr-defined]

from tests.services.admin import admin_of
from tests.services.process import ServiceError

Headers = list[tuple[str, str | bytes | None]]

LEADER_MOVES = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""What a broker says that has begun to lead a partition, or has ended, a moment ago: asked again, it knows."""


def unique(prefix: str = "test") -> str:
    """A name that no other test uses: topics and groups outlive the test that made them."""
    return f"{prefix}.{uuid.uuid4().hex[:12]}"


def create_topic(
    bootstrap: str,
    name: str | None = None,
    partitions: int = 4,
    config: dict[str, str] | None = None,
    timeout_s: float = 15,
) -> str:
    """Create a topic, by default under a unique name; returns the name once every partition has a leader."""
    topic = name or unique()
    admin = admin_of(bootstrap)
    # -1: as many copies as the broker makes by default, which is one of a single broker and three of three.
    new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=config or {})
    admin.create_topics([new], operation_timeout=timeout_s)[topic].result(timeout_s)
    deadline = time.monotonic() + timeout_s
    while True:  # the controller has agreed; the broker hears of it a moment later
        seen = admin.list_topics(topic, timeout=timeout_s).topics[topic].partitions
        if len(seen) == partitions and all(one.leader >= 0 for one in seen.values()):
            return topic
        if time.monotonic() > deadline:
            raise ServiceError(f"{topic}: {len(seen)} of {partitions} partitions have a leader after {timeout_s} s")
        time.sleep(0.02)


def produce_many(
    bootstrap: str,
    topic: str,
    records: Iterable[tuple[bytes | None, bytes | None]],
    *,
    partition: int = -1,
    headers: Headers | None = None,
    timeout_s: float = 60,
) -> int:
    """Write (key, value) pairs in order and wait until all are acknowledged. Returns how many."""
    failed: list[KafkaError] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "allow.auto.create.topics": False,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _message: failed.append(error),
        }
    )
    count = 0
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, partition, headers=headers or [])
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    unsent = producer.flush(timeout_s)
    if unsent or failed:
        why = failed[0] if failed else "no answer"
        raise ServiceError(f"{topic}: {len(failed) + unsent} of {count} records were not acknowledged: {why}")
    return count


def read_topic(bootstrap: str, topic: str, *, at_least: int = 0, timeout_s: float = 30) -> list[Message]:
    """Every committed record, in order per partition, up to where the topic ends now, and at least so many.

    The end is the high watermark that a read-uncommitted reader sees. So an open transaction makes this wait
    and then fail, where a read-committed reader by itself takes the place before it for the end.
    """
    deadline = time.monotonic() + timeout_s
    ends = end_offsets(bootstrap, topic, timeout_s)
    reached = dict.fromkeys(ends, 0)
    messages: list[Message] = []
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": unique("reader"),
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # a reader that jumps would hide a loss
        }
    )
    try:
        consumer.assign([Partition(topic, number, OFFSET_BEGINNING) for number in ends])
        while len(messages) < at_least or any(reached[number] < end for number, end in ends.items()):
            if time.monotonic() > deadline:
                raise ServiceError(_unfinished(topic, timeout_s, len(messages), at_least, reached, ends))
            for message in consumer.consume(1000, timeout=0.1):
                error = message.error()
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    # Its offset is past the commit markers, which are never delivered as records.
                    reached[message.partition() or 0] = message.offset() or 0
                elif not error.retriable() and error.code() not in {KafkaError._ALL_BROKERS_DOWN, *LEADER_MOVES}:
                    raise KafkaException(error)
        return messages
    finally:
        consumer.close()


def count_topic(bootstrap: str, topic: str, *, timeout_s: float = 30) -> int:
    """How many committed records the topic holds. Offsets cannot say: markers and aborts take some."""
    return len(read_topic(bootstrap, topic, timeout_s=timeout_s))


def end_offsets(bootstrap: str, topic: str, timeout_s: float = 15) -> dict[int, int]:
    """The high watermark of each partition, open transactions included."""
    admin = admin_of(bootstrap)
    found = admin.list_topics(topic, timeout=timeout_s).topics[topic]
    if found.error is not None:
        raise ServiceError(f"{topic}: {found.error}; create it before reading it")
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {Partition(topic, number): latest for number in found.partitions}
    deadline = time.monotonic() + timeout_s
    while True:
        answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=timeout_s)
        try:
            return {partition.partition: future.result().offset for partition, future in answers.items()}
        except KafkaException as error:
            if error.args[0].code() not in LEADER_MOVES or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _unfinished(
    topic: str, timeout_s: float, found: int, at_least: int, reached: dict[int, int], ends: dict[int, int]
) -> str:
    behind = {number: f"{reached[number]} of {end}" for number, end in ends.items() if reached[number] < end}
    if behind:
        why = f"stopped early (partition: offset of end) {behind}: a transaction is open, or the broker is down"
    else:
        why = f"expected at least {at_least}"
    return f"{topic}: {found} records after {timeout_s} s, {why}"
