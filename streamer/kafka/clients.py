"""Kafka clients for code beside the engine: short-lived, quiet, and with errors that say the cure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streamer.errors import BadConfig, Unreachable
from streamer.kafka.rights import forbidden, refused
from streamer.settings import Settings
from streamer.settings.loading import client_config

TIMEOUT_S = 5.0
COORDINATOR_COMES = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
)
FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
"""Errors that tell a producer that a newer one uses its transactional id."""
RIGHTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: " on topic ",
    KafkaError.GROUP_AUTHORIZATION_FAILED: " on group ",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: " on transactional id ",
}
"""The resource that an error is about, in the words of `streamer.kafka.rights.needs`."""
Client = TypeVar("Client")


class _Heard(logging.Handler):
    """Logs nothing and remembers librdkafka's last error: the caller sees a refused password only as a timeout."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.last = record.getMessage().rpartition("]: ")[2]


_heard = _Heard()
_logger = logging.getLogger("streamer.kafka.clients.librdkafka")
_logger.addHandler(_heard)
_logger.propagate = False


def admin(settings: Settings) -> AdminClient:
    """A client for topics and metadata; does not connect yet.

    Raises:
        BadConfig: librdkafka does not take the settings.
    """
    return _make(AdminClient, settings, {})


def producer(settings: Settings, **extra: Any) -> Producer:
    """An idempotent producer that partitions keys as Java's does; `extra` uses `_` for the dots of names."""
    fixed = {
        "enable.idempotence": "true",
        "acks": "all",
        "partitioner": "murmur2_random",
        "allow.auto.create.topics": "false",
        "linger.ms": "5",
        "message.timeout.ms": "30000",
    }
    return _make(Producer, settings, {**fixed, **_dotted(extra)})


def consumer(settings: Settings, group: str, **extra: Any) -> Consumer:
    """A consumer for manual assignment: it reads committed records and commits nothing by itself."""
    fixed = {
        "group.id": group,
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "isolation.level": "read_committed",
        "enable.partition.eof": "true",
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": "100",
    }
    return _make(Consumer, settings, {**fixed, **_dotted(extra)})


def partitions(client: Any, settings: Settings, topic: str, operation: str) -> list[int]:
    """The partitions of a topic that must exist and allow `operation`.

    Raises:
        Unreachable: the broker does not answer, has no such topic, or hides it from us.
    """
    found = counts(client, settings, [topic], operation)[topic]
    if found is None:
        raise Unreachable(f"there is no topic {topic}; check its name, or make it with: streamer topics apply WORKER")
    return list(range(found))


def counts(client: Any, settings: Settings, topics: list[str], operation: str = "DESCRIBE") -> dict[str, int | None]:
    """The number of partitions of each topic, None for one that does not exist.

    Raises:
        Unreachable: the broker does not answer, or hides a topic from a user without the right `operation`.
    """
    with explained(client, settings):
        # All of them: asking for one by name would create it where the broker makes topics by itself.
        known = client.list_topics(timeout=TIMEOUT_S).topics
    if hidden := forbidden(client_config(settings), [t for t in topics if t not in known], TIMEOUT_S, operation):
        raise Unreachable(f"broker {settings.kafka.bootstrap_servers}: {hidden}")
    return {topic: len(known[topic].partitions) if topic in known else None for topic in topics}


def permitted(settings: Settings, topic: str, *operations: str) -> None:
    """Check at the start the rights that only a later record, or a later start, would need.

    Raises:
        Unreachable: a right is missing on this topic.
    """
    for operation in operations:
        if missing := forbidden(client_config(settings), [topic], TIMEOUT_S, operation):
            raise Unreachable(f"broker {settings.kafka.bootstrap_servers}: {missing}")


def committed(client: Any, topic: str, known: list[int], patience_s: float = TIMEOUT_S) -> list[TopicPartition]:
    """The committed offsets of the consumer's group, as of transactions that have ended. An open transaction is waited
    for, `patience_s` at most.

    Raises:
        KafkaException: they cannot be read.
    """
    asked = [TopicPartition(topic, partition) for partition in known]
    give_up = time.monotonic() + patience_s
    while True:
        try:
            found: list[TopicPartition] = client.committed(asked, timeout=patience_s)
            if broken := [one.error for one in found if one.error]:
                raise KafkaException(broken[0])
            return found
        except KafkaException as error:
            if error.args[0].code() == KafkaError._TIMED_OUT:
                _raise_what_is_said_of_the_group(client)
            # The first group of a cluster, and any group after a restart: its coordinator is still loading.
            if error.args[0].code() not in COORDINATOR_COMES or time.monotonic() > give_up:
                raise
            time.sleep(0.1)


def _raise_what_is_said_of_the_group(client: Any) -> None:
    """The client finds no coordinator of a forbidden group, and its question times out; a read tells why."""
    for message in client.consume(10, 0.2):
        if message.error() is not None and message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise KafkaException(message.error())


@contextmanager
def explained(client: Any, settings: Settings, *needed: str) -> Iterator[None]:
    """Turn an error of the client into ours. `needed` are the rights that the call needs.

    Raises:
        Unreachable: with the address and the cure.
    """
    try:
        yield
    except KafkaException as error:
        client.poll(0)  # a poll delivers what librdkafka has logged
        said = "; ".join(part for part in (_text(error), _heard.last) if part)
        where = settings.kafka.bootstrap_servers
        about = RIGHTS.get(_code(error), "no right")
        if missing := [right for right in needed if about in right]:
            raise Unreachable(f"broker {where}: {_text(error)}; {'; '.join(missing)}") from error
        if why := refused(said, client_config(settings)):
            raise Unreachable(f"broker {where}: {why}") from error
        raise Unreachable(f"broker {where}: {said}. Is it running, is kafka.bootstrap_servers right?") from error


def _code(error: KafkaException) -> int:
    found = error.args[0]
    return int(found.code()) if isinstance(found, KafkaError) else KafkaError.UNKNOWN


def _text(error: KafkaException) -> str:
    found = error.args[0]
    return found.str() if isinstance(found, KafkaError) else str(found)


def _make(kind: Callable[..., Client], settings: Settings, extra: dict[str, Any]) -> Client:
    try:
        return kind({"client.id": "streamer-cli", **client_config(settings), **extra}, logger=_logger)
    except KafkaException as error:
        raise BadConfig(f"[kafka.client] is not accepted: {_text(error)}") from error


def _dotted(extra: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in extra.items()}
