"""The model of a broker that `tests.simulation` stands on, held to the real one: one script, the same observations."""

from __future__ import annotations

import logging
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.services import Kafka, create_topic, unique
from tests.simulation.broker import Broker
from tests.simulation.consumer import SimConsumer
from tests.simulation.group import Group, Refusal
from tests.simulation.producer import SimProducer
from tests.simulation.wire import PlainWire

pytestmark = pytest.mark.slow

TIMEOUT_S = 15.0
ASK_S = 1.5
END_TXN = 26


class ModelPlace:
    """The doubles on the model."""

    topic = "topic"

    def __init__(self, protocol: str) -> None:
        self._config = {"group.protocol": protocol}
        self._broker = Broker({self.topic: 2}, Group(2, protocol))
        self._wire = PlainWire(self._broker)

    def producer(self, name: str, timeout_ms: int = 20_000) -> Any:
        return SimProducer({"transactional.id": name, "transaction.timeout.ms": str(timeout_ms)}, self._wire)

    def consumer(self) -> Any:
        consumer = SimConsumer(self._config, self._wire)
        consumer._topic = self.topic
        return consumer

    def late_end(self, producer: Any, name: str, committed: bool) -> str:
        try:
            self._broker.end_transaction(name, producer._epoch, committed)
        except Refusal as error:
            return KafkaError(error.code).name()
        return "ok"

    def read(self) -> list[bytes | None]:
        return [entry.value for entry in self._broker.logs[self.topic, 0].visible()]

    def wait(self, seconds: float) -> None:
        self._wire.sleep(seconds)


class RealPlace:
    """The real clients on the real broker."""

    def __init__(self, bootstrap: str, protocol: str) -> None:
        self._bootstrap = bootstrap
        self._group = unique("group")
        self._protocol = protocol
        self._prefix = unique("id")
        self._pids: dict[int, list[str]] = {}
        self.topic = create_topic(bootstrap, partitions=2)

    def producer(self, name: str, timeout_ms: int = 20_000) -> Any:
        lines: list[str] = []
        logger = logging.getLogger(unique("producer"))
        logger.propagate = False
        logger.setLevel(logging.DEBUG)
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "transactional.id": f"{self._prefix}.{name}",
                "transaction.timeout.ms": timeout_ms,
                "message.timeout.ms": timeout_ms,
                "linger.ms": 1,
                "debug": "eos",
            },
            logger=logger,
        )
        self._pids[id(producer)] = lines
        return producer

    def consumer(self) -> Any:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": self._group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "group.protocol": self._protocol,
                **({} if self._protocol == "consumer" else {"partition.assignment.strategy": "cooperative-sticky"}),
            }
        )

    def late_end(self, producer: Any, name: str, committed: bool) -> str:
        """An EndTxn (v1, as librdkafka's) of the producer's id and epoch, from another connection."""
        with suppress(KafkaException):  # a fatal error is raised by every call
            producer.poll(0)
        said = " ".join(self._pids[id(producer)])
        pid, epoch = re.findall(r"PID\{Id:(\d+),Epoch:(\d+)\}", said)[-1]
        full = f"{self._prefix}.{name}".encode()
        body = struct.pack(">h", len(full)) + full + struct.pack(">qh?", int(pid), int(epoch), committed)
        request = struct.pack(">hhih", END_TXN, 1, 7, -1) + body
        host, port = self._bootstrap.split(":")
        with socket.create_connection((host, int(port)), TIMEOUT_S) as line:
            line.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 14:
                answer += line.recv(64)
        code = struct.unpack(">iiih", answer[:14])[3]
        return KafkaError(code).name() if code else "ok"

    def read(self) -> list[bytes | None]:
        """As far as a read_committed reader comes."""
        reader = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": unique("reader"),
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            }
        )
        values: list[bytes | None] = []
        try:
            reader.assign([TopicPartition(self.topic, 0, OFFSET_BEGINNING)])
            for _ in range(200):
                message = reader.poll(0.2)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    values.append(message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    return values
            raise AssertionError("the end was not reached")
        finally:
            reader.close()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


Place = ModelPlace | RealPlace
Script = Callable[[Place], list[object]]


def begun(place: Place, name: str, value: bytes | None = None, timeout_ms: int = 20_000) -> Any:
    """A producer in a transaction; with a value, it has been written."""
    producer = place.producer(name, timeout_ms)
    producer.init_transactions(TIMEOUT_S)
    begin(place, producer, value)
    return producer


def begin(place: Place, producer: Any, value: bytes | None = None) -> None:
    producer.begin_transaction()
    if value is not None:
        producer.produce(place.topic, value, b"k", 0)
        producer.flush(TIMEOUT_S)


def outcome(call: Callable[..., Any], *args: Any) -> str:
    """How a call of a client ends, in the terms on which the sink decides."""
    try:
        call(*args)
    except KafkaException as error:
        said = error.args[0]
        if said.code() == KafkaError.ILLEGAL_GENERATION or said.code() == KafkaError.STALE_MEMBER_EPOCH:
            return "stale: abort" if said.txn_requires_abort() else "stale"
        flags = [name for name in ("fatal", "txn_requires_abort") if getattr(said, name)()]
        return " ".join([said.name(), *flags])
    return "ok"


def offsets(place: Place, offset: int, partition: int = 0) -> list[TopicPartition]:
    return [TopicPartition(place.topic, partition, offset)]


def position(place: Place, consumer: Any) -> str:
    """What a client that needs stable positions is told."""
    try:
        (found,) = consumer.committed([TopicPartition(place.topic, 0)], timeout=ASK_S)
    except KafkaException as error:
        return str(error.args[0].name())
    return str(found.error.name() if found.error else found.offset)


class Member:
    """A consumer of the group, and what it owns as its callbacks say."""

    def __init__(self, place: Place) -> None:
        self.client = place.consumer()
        self.owned: set[int] = set()
        self.client.subscribe([place.topic], on_assign=self._assigned, on_revoke=self._gone, on_lost=self._gone)

    def membership(self) -> Any:
        return self.client.consumer_group_metadata()

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self.owned |= {one.partition for one in partitions}
        consumer.incremental_assign(partitions)

    def _gone(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self.owned -= {one.partition for one in partitions}
        consumer.incremental_unassign(partitions)


def settled(*members: Member) -> None:
    """The two partitions are shared evenly."""
    for _ in range(300):
        for one in members:
            one.client.consume(1, 0.1)
        if all(len(one.owned) == 2 // len(members) for one in members):
            return
    raise AssertionError(f"the group does not settle: {[one.owned for one in members]}")


# -- the scripts: what each returns is what was seen


def what_is_committed_is_visible_and_what_is_aborted_never(place: Place) -> list[object]:
    producer = begun(place, "a", b"one")
    seen: list[object] = [outcome(producer.commit_transaction, TIMEOUT_S)]
    begin(place, producer, b"two")
    seen.append(outcome(producer.abort_transaction, TIMEOUT_S))
    begin(place, producer, b"three")
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    place.wait(0.3)
    return [*seen, place.read()]


def an_open_transaction_holds_up_what_comes_after_it(place: Place) -> list[object]:
    slow = begun(place, "slow", b"one")
    quick = begun(place, "quick", b"two")
    seen: list[object] = [outcome(quick.commit_transaction, TIMEOUT_S)]
    place.wait(0.3)
    seen.append(place.read())
    seen.append(outcome(slow.abort_transaction, TIMEOUT_S))
    place.wait(0.3)
    return [*seen, place.read()]


def the_same_id_again_ends_the_open_transaction_and_fences_its_producer(place: Place) -> list[object]:
    zombie = begun(place, "a", b"one")
    successor = begun(place, "a", b"two")
    place.wait(0.3)
    seen: list[object] = [place.read(), outcome(zombie.commit_transaction, TIMEOUT_S)]
    seen.append(outcome(successor.commit_transaction, TIMEOUT_S))
    place.wait(0.3)
    return [*seen, place.read()]


def a_fenced_producer_writes_nothing_and_cannot_roll_back(place: Place) -> list[object]:
    zombie = begun(place, "a")
    successor = begun(place, "a")
    zombie.produce(place.topic, b"one", b"k", 0)
    seen: list[object] = [outcome(zombie.flush, TIMEOUT_S), outcome(zombie.abort_transaction, TIMEOUT_S)]
    seen.append(outcome(successor.commit_transaction, TIMEOUT_S))
    return [*seen, place.read()]


def positions_count_when_their_transaction_is_committed(place: Place) -> list[object]:
    one = Member(place)
    settled(one)
    producer = begun(place, "a", b"one")
    seen: list[object] = [position(place, one.client)]
    seen.append(outcome(producer.send_offsets_to_transaction, offsets(place, 3), one.membership(), TIMEOUT_S))
    seen.append(position(place, one.client))
    seen.append(outcome(producer.abort_transaction, TIMEOUT_S))
    place.wait(0.3)
    seen.append(position(place, one.client))
    begin(place, producer)
    seen.append(outcome(producer.send_offsets_to_transaction, offsets(place, 7), one.membership(), TIMEOUT_S))
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    place.wait(0.3)
    seen.append(position(place, one.client))
    one.client.close()
    return seen


def a_stale_generation_is_refused_and_the_transaction_can_be_rolled_back(place: Place) -> list[object]:
    one = Member(place)
    settled(one)
    stale = one.membership()
    two = Member(place)
    settled(one, two)
    (moved,), (kept,) = two.owned, one.owned
    producer = begun(place, "a", b"one")
    seen: list[object] = [outcome(producer.send_offsets_to_transaction, offsets(place, 3, moved), stale, TIMEOUT_S)]
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    seen.append(outcome(producer.abort_transaction, TIMEOUT_S))
    begin(place, producer, b"two")
    seen.append(outcome(producer.send_offsets_to_transaction, offsets(place, 3, kept), stale, TIMEOUT_S))
    seen.append(outcome(producer.abort_transaction, TIMEOUT_S))
    begin(place, producer, b"three")
    seen.append(outcome(producer.send_offsets_to_transaction, offsets(place, 4), one.membership(), TIMEOUT_S))
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    place.wait(0.3)
    seen += [position(place, one.client), place.read()]
    two.client.close()
    one.client.close()
    return seen


def who_has_left_the_group_is_refused_and_nobody_only_by_kip_848(place: Place) -> list[object]:
    one, two = Member(place), Member(place)
    settled(one, two)
    left = two.membership()
    two.client.close()
    settled(one)
    producer = begun(place, "a", b"one")
    seen: list[object] = [outcome(producer.send_offsets_to_transaction, offsets(place, 3), left, TIMEOUT_S)]
    seen.append(outcome(producer.abort_transaction, TIMEOUT_S))
    place.wait(0.3)
    begin(place, producer)
    nobody = place.consumer().consumer_group_metadata()
    seen.append(outcome(producer.send_offsets_to_transaction, offsets(place, 5), nobody, TIMEOUT_S))
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    place.producer("a").init_transactions(TIMEOUT_S)
    place.wait(0.3)
    seen.append(position(place, one.client))
    one.client.close()
    return seen


def a_transaction_that_is_too_old_is_aborted_and_its_producer_fenced(place: Place) -> list[object]:
    producer = begun(place, "a", b"one", timeout_ms=1_500)
    place.wait(4.0)
    other = begun(place, "b", b"two")
    seen: list[object] = [outcome(other.commit_transaction, TIMEOUT_S)]
    place.wait(0.3)
    seen.append(place.read())
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    return seen


def a_late_end_of_one_transaction_ends_the_next_until_a_new_producer_fences_it(place: Place) -> list[object]:
    producer = begun(place, "a", b"one")
    seen: list[object] = [outcome(producer.commit_transaction, TIMEOUT_S)]
    place.wait(0.3)
    seen.append(place.late_end(producer, "a", True))  # a second copy, before anything else: harmless
    begin(place, producer, b"two")
    seen.append(place.late_end(producer, "a", True))
    place.wait(0.3)
    seen += [place.read(), outcome(producer.abort_transaction, TIMEOUT_S)]
    successor = begun(place, "a", b"three")
    seen.append(place.late_end(producer, "a", True))
    place.wait(0.3)
    seen += [place.read(), outcome(successor.abort_transaction, TIMEOUT_S)]
    return seen


def what_was_purged_keeps_its_transaction_from_being_committed(place: Place) -> list[object]:
    producer = begun(place, "a")
    producer.produce(place.topic, b"one", b"k", 0)
    producer.purge()
    seen: list[object] = [outcome(producer.commit_transaction, TIMEOUT_S)]
    seen.append(outcome(producer.abort_transaction, TIMEOUT_S))
    begin(place, producer, b"two")
    seen.append(outcome(producer.commit_transaction, TIMEOUT_S))
    place.wait(0.3)
    return [*seen, place.read()]


SCRIPTS: list[Script] = [
    what_was_purged_keeps_its_transaction_from_being_committed,
    what_is_committed_is_visible_and_what_is_aborted_never,
    an_open_transaction_holds_up_what_comes_after_it,
    the_same_id_again_ends_the_open_transaction_and_fences_its_producer,
    a_fenced_producer_writes_nothing_and_cannot_roll_back,
    positions_count_when_their_transaction_is_committed,
    a_stale_generation_is_refused_and_the_transaction_can_be_rolled_back,
    who_has_left_the_group_is_refused_and_nobody_only_by_kip_848,
    a_transaction_that_is_too_old_is_aborted_and_its_producer_fenced,
    a_late_end_of_one_transaction_ends_the_next_until_a_new_producer_fences_it,
]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_model_and_the_broker_show_the_same(script: Script, protocol: str, kafka: Kafka) -> None:
    modelled = script(ModelPlace(protocol))
    assert modelled == script(RealPlace(kafka.bootstrap, protocol))
