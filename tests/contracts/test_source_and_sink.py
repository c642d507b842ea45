"""What the engine may expect of a source and a sink: one suite, on the shipped fakes and on real Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from confluent_kafka import Producer

from streamer.clock import Deadline, SystemClock
from streamer.errors import Wait
from streamer.kafka.at_least_once import AtLeastOnceSink
from streamer.kafka.exactly_once import TransactionalSink
from streamer.kafka.source import KafkaSource
from streamer.records import Messages, Record
from streamer.testing import FakeKafka, FakeSink, FakeSource, ManualClock
from tests.services import Kafka, create_topic, produce_many, read_topic, unique
from tests.slices import records

TARGET = "target"


class Group:
    """A rebalance that only remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[int]]] = []

    def assigned(self, partitions: Any) -> None:
        self.events.append(("assigned", list(partitions)))

    def revoked(self, partitions: Any) -> None:
        self.events.append(("revoked", list(partitions)))

    def lost(self, partitions: Any) -> None:
        self.events.append(("lost", list(partitions)))


class Place(Protocol):
    """Where a contract is tried: one partition of a source topic, one target topic, one group."""

    clock: Any
    guarantee: str

    def append(self, count: int) -> None: ...
    def append_in_transaction(self, count: int) -> None: ...
    def source(self) -> Any: ...
    def sink(self, source: Any) -> Any: ...
    def read(self) -> list[bytes]: ...
    def target(self) -> str: ...


class FakePlace:
    guarantee = "exactly_once"

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.kafka = FakeKafka([])
        self._end = 0

    def append(self, count: int) -> None:
        for offset in range(self._end, self._end + count):
            self.kafka.append(Record("source", 0, offset, b"k", b"v%d" % offset, None, 0))
        self._end += count

    def append_in_transaction(self, count: int) -> None:
        self.append(count)

    def source(self) -> FakeSource:
        return FakeSource(self.kafka, self.clock)

    def sink(self, source: FakeSource) -> FakeSink:
        return FakeSink(self.kafka)

    def read(self) -> list[bytes]:
        return [message.value or b"" for message in self.kafka.published]

    def target(self) -> str:
        return TARGET


class RealPlace:
    def __init__(self, kafka: Kafka, guarantee: str, protocol: str) -> None:
        self.clock = SystemClock()
        self.guarantee = guarantee
        self._bootstrap = kafka.bootstrap
        self._client = {"bootstrap.servers": kafka.bootstrap, "group.protocol": protocol}
        self._group = unique("group")
        self._source = create_topic(kafka.bootstrap, partitions=1)
        self._target = create_topic(kafka.bootstrap, partitions=1)
        self._end = 0

    def append(self, count: int) -> None:
        rows = [(b"k", b"v%d" % n) for n in range(self._end, self._end + count)]
        produce_many(self._bootstrap, self._source, rows)
        self._end += count

    def append_in_transaction(self, count: int) -> None:
        producer = Producer({"bootstrap.servers": self._bootstrap, "transactional.id": unique("upstream")})
        producer.init_transactions(20)
        producer.begin_transaction()
        for n in range(self._end, self._end + count):
            producer.produce(self._source, b"v%d" % n, b"k")
        producer.commit_transaction(20)
        self._end += count

    def source(self) -> KafkaSource:
        return KafkaSource({**self._client, "group.id": self._group}, self._source, "earliest")

    def sink(self, source: KafkaSource) -> TransactionalSink | AtLeastOnceSink:
        config = {"bootstrap.servers": self._bootstrap}
        if self.guarantee == "at_least_once":
            return AtLeastOnceSink(config, source, self.clock)
        sink = TransactionalSink(config, self._group, source, self._source, self.clock)
        sink.recover(Deadline(self.clock, 15))
        return sink

    def read(self) -> list[bytes]:
        return [message.value() or b"" for message in read_topic(self._bootstrap, self._target)]

    def target(self) -> str:
        return self._target


PLACES: dict[str, Callable[[Any], Place]] = {
    "fake": lambda request: FakePlace(),
    "exactly once": lambda request: RealPlace(request.getfixturevalue("kafka"), "exactly_once", "classic"),
    "exactly once, KIP-848": lambda request: RealPlace(request.getfixturevalue("kafka"), "exactly_once", "consumer"),
    "at least once": lambda request: RealPlace(request.getfixturevalue("kafka"), "at_least_once", "classic"),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param](request)


def joined(place: Place) -> tuple[Any, Group]:
    source, group = place.source(), Group()
    source.subscribe(group)
    return source, group


def read(source: Any, count: int, records_max: int = 100) -> list[Record]:
    """Poll until so many records came."""
    found: list[Record] = []
    end = time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        found += records(source.poll(records_max, 0.1))
    return found


def messages(place: Place, *values: bytes) -> list[Messages]:
    """One run with headers."""
    count = len(values)
    return [Messages(place.target(), 0, [b"k"] * count, values, [[("h", b"1")]] * count)]


def commit(place: Place, sink: Any, positions: dict[int, int]) -> None:
    """As the engine does: what time may cure is tried again."""
    for _ in range(20):
        try:
            sink.begin(positions, Deadline(place.clock, 10))()
            return sink.confirm()
        except Wait:
            place.clock.sleep(0.2)
    raise AssertionError("no commit")


def test_records_come_in_order_and_no_more_than_asked(place: Place) -> None:
    place.append(7)
    source, group = joined(place)
    first = read(source, 3, records_max=3)
    assert [record.offset for record in first] == [0, 1, 2]
    assert [record.value for record in read(source, 4)] == [b"v3", b"v4", b"v5", b"v6"]
    assert ("assigned", [0]) in group.events
    source.close()


def test_asked_for_none_it_gives_none_and_loses_none(place: Place) -> None:
    place.append(3)
    source, _ = joined(place)
    assert len(read(source, 1, records_max=1)) == 1
    for _ in range(3):
        assert source.poll(0, 0.05) == []
    assert [record.offset for record in read(source, 2)] == [1, 2]
    source.close()


def test_nothing_is_committed_until_somebody_does(place: Place) -> None:
    place.append(2)
    source, _ = joined(place)
    read(source, 2)
    assert source.committed([0], 5.0) == {}
    source.close()
    again, _ = joined(place)
    assert [record.offset for record in read(again, 2)] == [0, 1]
    again.close()


def test_a_commit_makes_messages_and_positions_durable_in_order(place: Place) -> None:
    place.append(3)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 3)
    sink.write(messages(place, b"a", b"b"))
    sink.write(messages(place, b"c"))
    commit(place, sink, {0: 2})
    assert place.read() == [b"a", b"b", b"c"]
    assert source.committed([0], 5.0) == {0: 2}
    sink.close(Deadline(place.clock, 5))
    source.close()
    again, _ = joined(place)
    assert [record.offset for record in read(again, 1)] == [2]
    again.close()


def test_exactly_once_shows_nothing_before_the_commit(place: Place) -> None:
    if place.guarantee == "at_least_once":
        return  # it promises less
    place.append(1)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 1)
    sink.write(messages(place, b"a"))
    assert place.read() == []
    commit(place, sink, {0: 1})
    assert place.read() == [b"a"]
    source.close()


def test_each_commit_publishes_its_own(place: Place) -> None:
    place.append(2)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 2)
    sink.write(messages(place, b"a"))
    commit(place, sink, {0: 1})
    sink.write(messages(place, b"b"))
    commit(place, sink, {0: 2})
    assert place.read() == [b"a", b"b"]
    source.close()


def test_positions_alone_can_be_committed(place: Place) -> None:
    place.append(2)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 2)
    commit(place, sink, {0: 2})
    assert source.committed([0], 5.0) == {0: 2}
    source.close()


def test_what_is_forgotten_is_not_published_by_a_transaction(place: Place) -> None:
    if place.guarantee == "at_least_once":
        return  # it has published already
    place.append(1)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 1)
    sink.write(messages(place, b"a"))
    sink.forget([0])
    sink.write(messages(place, b"b"))
    commit(place, sink, {0: 1})
    assert place.read() == [b"b"]
    source.close()


def test_what_is_handed_over_is_published_once_and_in_order_with_the_rest(place: Place) -> None:
    place.append(1)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 1)
    sink.write(messages(place, b"a"))
    sink.hand_over(Deadline(place.clock, 10))
    sink.write(messages(place, b"b"))
    sink.hand_over(Deadline(place.clock, 10))
    sink.write(messages(place, b"c"))
    commit(place, sink, {0: 1})
    assert place.read() == [b"a", b"b", b"c"]
    source.close()


def test_what_was_handed_over_and_is_forgotten_is_not_published(place: Place) -> None:
    if place.guarantee == "at_least_once":
        return  # it has published already
    place.append(1)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 1)
    sink.write(messages(place, b"a"))
    sink.hand_over(Deadline(place.clock, 10))
    sink.forget([0])
    sink.write(messages(place, b"b"))
    commit(place, sink, {0: 1})
    assert place.read() == [b"b"]
    source.close()


def test_recover_keeps_what_was_written(place: Place) -> None:
    place.append(1)
    source, _ = joined(place)
    sink = place.sink(source)
    read(source, 1)
    sink.write(messages(place, b"a"))
    sink.recover(Deadline(place.clock, 15))
    commit(place, sink, {0: 1})
    assert place.read() == [b"a"]
    source.close()


def test_rewind_reads_again(place: Place) -> None:
    place.append(4)
    source, _ = joined(place)
    read(source, 4)
    source.rewind({0: 2})
    assert [record.offset for record in read(source, 2)] == [2, 3]
    source.close()


def test_lag_is_what_is_behind_the_position(place: Place) -> None:
    place.append(5)
    source, _ = joined(place)
    read(source, 2, records_max=2)
    assert source.lag() == {0: 3}
    source.close()


def test_at_the_end_there_is_no_lag_even_behind_a_transaction(place: Place) -> None:
    place.append(2)
    place.append_in_transaction(3)
    source, _ = joined(place)
    read(source, 5)
    source.poll(1, 1.0)
    assert source.lag() == {0: 0}
    source.close()


def test_leaving_revokes_while_partitions_are_still_ours(place: Place) -> None:
    place.append(1)
    source, group = joined(place)
    read(source, 1)
    source.close()
    assert group.events[-1] == ("revoked", [0])


def test_a_member_has_a_group(place: Place) -> None:
    place.append(1)
    source, _ = joined(place)
    read(source, 1)
    assert source.group() is not None
    source.close()
