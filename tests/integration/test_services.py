"""The servers under the other tests do what those tests rely on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from confluent_kafka import Consumer, Producer

from tests.services import (
    Kafka,
    Redis,
    ServiceError,
    count_topic,
    create_topic,
    end_offsets,
    produce_many,
    read_topic,
    start_kafka,
    start_redis,
)


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    with start_redis() as server:
        yield server


def transactional(kafka: Kafka, group_id: str) -> Producer:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": group_id})
    producer.init_transactions(15)
    return producer


def test_what_is_produced_is_read_in_order(kafka: Kafka) -> None:
    topic = create_topic(kafka.bootstrap, partitions=3)
    sent = [(f"key-{number % 7}".encode(), str(number).encode()) for number in range(1000)]

    assert produce_many(kafka.bootstrap, topic, sent) == 1000

    read = read_topic(kafka.bootstrap, topic)
    assert {message.partition() for message in read} == {0, 1, 2}
    by_key = {key: [message.value() for message in read if message.key() == key] for key, _ in sent}
    assert by_key == {key: [value for other, value in sent if other == key] for key in by_key}


def test_an_aborted_transaction_is_invisible(kafka: Kafka, topic: str, group_id: str) -> None:
    producer = transactional(kafka, group_id)
    for value, finish in ((b"kept", producer.commit_transaction), (b"gone", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(15)
        finish(15)

    assert [message.value() for message in read_topic(kafka.bootstrap, topic)] == [b"kept"]
    assert end_offsets(kafka.bootstrap, topic)[0] == 4, "two records and two markers"


def test_the_reader_waits_for_an_open_transaction(kafka: Kafka, topic: str, group_id: str) -> None:
    producer = transactional(kafka, group_id)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush(15)

    with pytest.raises(ServiceError, match="a transaction is open"):
        read_topic(kafka.bootstrap, topic, timeout_s=1)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_topic, kafka.bootstrap, topic)
        producer.commit_transaction(15)
        assert [message.value() for message in reading.result(30)] == [b"open"]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_both_group_protocols_serve(kafka: Kafka, topic: str, group_id: str, protocol: str) -> None:
    produce_many(kafka.bootstrap, topic, [(None, b"one")])
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group_id,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(15)
        assert message is not None
        assert message.value() == b"one"
    finally:
        consumer.close()


def test_a_killed_broker_comes_back_with_its_data(kafka: Kafka, topic: str) -> None:
    produce_many(kafka.bootstrap, topic, [(None, b"before")] * 100)

    kafka.kill()
    with pytest.raises(ServiceError, match="not acknowledged"):
        produce_many(kafka.bootstrap, topic, [(None, b"lost")], timeout_s=0.5)
    kafka.start()

    produce_many(kafka.bootstrap, topic, [(None, b"after")])
    assert count_topic(kafka.bootstrap, topic) == 101


def test_a_paused_broker_keeps_its_connections(kafka: Kafka, topic: str) -> None:
    kafka.pause()
    with ThreadPoolExecutor(1) as pool:
        producing = pool.submit(produce_many, kafka.bootstrap, topic, [(None, b"patient")])
        with pytest.raises(TimeoutError):
            producing.result(1)
        kafka.resume()
        assert producing.result(60) == 1
    assert count_topic(kafka.bootstrap, topic) == 1


def test_redis_keeps_what_it_is_given(redis_server: Redis) -> None:
    with redis_server.client() as client:
        client.set("services:key", b"value", ex=60)
        assert client.get("services:key") == b"value"


def test_a_killed_redis_refuses_and_comes_back_empty(own_redis: Redis) -> None:
    with own_redis.client() as client:
        client.set("key", b"value")
        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        own_redis.start()
        assert client.get("key") is None


def test_a_paused_redis_times_out(own_redis: Redis) -> None:
    with own_redis.client() as client:
        client.ping()
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own_redis.resume()
        assert client.ping()


def test_no_kafka_is_an_error_that_names_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("STREAMER_TEST_KAFKA", "JAVA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")

    with pytest.raises(ServiceError, match=r"(?s)STREAMER_TEST_KAFKA.*Docker.*Java 17 or newer and Maven"):
        start_kafka()


def test_a_server_of_others_is_not_broken(monkeypatch: pytest.MonkeyPatch, own_redis: Redis) -> None:
    monkeypatch.setenv("STREAMER_TEST_REDIS", own_redis.url)
    with start_redis() as named, pytest.raises(ServiceError, match="Unset STREAMER_TEST_REDIS"):
        named.kill()
    own_redis.probe()
