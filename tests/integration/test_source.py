"""What the real consumer remembers over a rebalance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streamer.kafka.source import KafkaSource
from streamer.records import Record
from tests.services import Kafka, produce_many
from tests.slices import records


class Owned:
    """The partitions that a source has now."""

    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.told = False

    def assigned(self, partitions: Sequence[int]) -> None:
        self.told = True
        self.partitions |= set(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        self.partitions -= set(partitions)

    lost = revoked


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_partition_that_went_while_paused_is_read_when_it_comes_back(
    kafka: Kafka, topic: str, group_id: str, protocol: str
) -> None:
    client = {"bootstrap.servers": kafka.bootstrap, "group.id": group_id, "group.protocol": protocol}
    stays, guest = (KafkaSource(client, topic, "earliest") for _ in range(2))
    owned, lent = Owned(), Owned()
    stays.subscribe(owned)
    until(lambda: len(owned.partitions) == 4, lambda: stays.poll(10, 0.1))
    guest.subscribe(lent)
    # Without room for records: the group is served, reading is paused.
    until(lambda: len(owned.partitions) == len(lent.partitions) == 2, lambda: (stays.poll(0, 0.1), guest.poll(0, 0.1)))
    stays.poll(10, 0.1)
    guest.close()
    until(lambda: len(owned.partitions) == 4, lambda: stays.poll(10, 0.1))

    for partition in range(4):
        produce_many(kafka.bootstrap, topic, [(b"key", b"value")], partition=partition)

    read: list[Record] = []
    until(lambda: len(read) == 4, lambda: read.extend(records(stays.poll(10, 0.1))))
    stays.close()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_replica_too_many_is_told_that_it_has_no_partitions(
    kafka: Kafka, topic: str, group_id: str, protocol: str
) -> None:
    """With KIP-848 the client tells it nothing, so the group is asked; it would never be ready otherwise."""
    client = {"bootstrap.servers": kafka.bootstrap, "group.id": group_id, "group.protocol": protocol}
    sources = [KafkaSource(client, topic, "earliest") for _ in range(5)]  # of a topic with four partitions
    owned = [Owned() for _ in sources]
    for source, mine in zip(sources, owned, strict=True):
        source.subscribe(mine)
    until(
        lambda: all(mine.told for mine in owned) and sorted(len(mine.partitions) for mine in owned) == [0, 1, 1, 1, 1],
        lambda: [source.poll(10, 0.02) for source in sources],
        timeout_s=40,
    )
    for source in sources:
        source.close()


def until(true: Callable[[], bool], turn: Callable[[], object], timeout_s: float = 20) -> None:
    """Take turns until it is true."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        turn()


@pytest.mark.parametrize(
    ("protocol", "ends", "first"), [("classic", "commit_transaction", 5), ("consumer", "abort_transaction", 0)]
)
def test_positions_in_an_open_transaction_are_waited_for_over_a_rebalance(
    kafka: Kafka, topic: str, group_id: str, protocol: str, ends: str, first: int
) -> None:
    """Its owner may yet commit them. librdkafka (2.16) takes them for none when partitions move while it asks."""
    for partition in range(4):
        produce_many(kafka.bootstrap, topic, [(b"key", b"value")] * 10, partition=partition)
    owner = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": group_id})
    owner.init_transactions(20)
    owner.begin_transaction()
    nobody = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group_id})  # which no broker fences
    moved = [TopicPartition(topic, partition, 5) for partition in range(4)]
    owner.send_offsets_to_transaction(moved, nobody.consumer_group_metadata(), 10)
    client = {"bootstrap.servers": kafka.bootstrap, "group.id": group_id, "group.protocol": protocol}
    stays, guest = (KafkaSource(client, topic, "earliest") for _ in range(2))
    owned, lent = Owned(), Owned()
    read: list[Record] = []

    def turn() -> None:
        read.extend(records(stays.poll(10, 0.1) + guest.poll(10, 0.1)))

    stays.subscribe(owned)
    until(lambda: len(owned.partitions) == 4, lambda: read.extend(records(stays.poll(10, 0.1))))
    guest.subscribe(lent)
    until(lambda: len(owned.partitions) == len(lent.partitions) == 2, turn, timeout_s=30)
    asked_until = time.monotonic() + 3
    until(lambda: time.monotonic() > asked_until, turn)
    assert read == []
    getattr(owner, ends)(10)
    until(lambda: len(read) >= 4 * (10 - first), turn)
    assert sorted((record.partition, record.offset) for record in read) == [
        (partition, offset) for partition in range(4) for offset in range(first, 10)
    ]
    for client_of in (stays, guest, nobody):
        client_of.close()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_partitions_that_a_topic_gets_later_are_read_whole_by_a_group_that_began_at_the_end(
    kafka: Kafka, topic: str, group_id: str, protocol: str
) -> None:
    """`latest` is the moment at which the group began. Two replicas join at once: one of them decides for both."""
    for partition in range(4):
        produce_many(kafka.bootstrap, topic, [(b"old", b"value")] * 3, partition=partition)
    client = {
        "bootstrap.servers": kafka.bootstrap,
        "group.id": group_id,
        "group.protocol": protocol,
        "topic.metadata.refresh.interval.ms": "2000",
    }
    sources = [KafkaSource(client, topic, "latest") for _ in range(2)]
    owned = [Owned() for _ in sources]
    read: list[Record] = []

    def turn() -> None:
        for source in sources:
            read.extend(records(source.poll(100, 0.05)))

    for source, mine in zip(sources, owned, strict=True):
        source.subscribe(mine)
    until(lambda: [len(mine.partitions) for mine in owned] == [2, 2], turn)
    until(lambda: not any(source._unplaced for source in sources), turn)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)
    until(lambda: len(admin.list_topics(topic, timeout=5).topics[topic].partitions) == 6, turn)
    for partition in range(6):
        produce_many(kafka.bootstrap, topic, [(b"new", b"value")] * 30, partition=partition)
    until(lambda: sum(len(mine.partitions) for mine in owned) == 6, turn, timeout_s=40)
    until(lambda: len(read) >= 180, turn)
    assert {record.key for record in read} == {b"new"}
    assert len({(record.partition, record.offset) for record in read}) == 180
    for source in sources:
        source.close()
