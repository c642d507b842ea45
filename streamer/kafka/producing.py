"""What both sinks share: the producer's settings, partitions, produce, abort."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException

from streamer.clock import Deadline
from streamer.errors import Aborted, BadConfig, Refused, Temporary, Unclear, Wait
from streamer.kafka.line import STUMBLES, hear
from streamer.kafka.rights import ANSWER_S, GRANT, NO_TOPIC, needs
from streamer.records import Messages

MakeProducer = Callable[[dict[str, Any]], Any]
Report = Callable[[KafkaError | None, Any], None]
Told = Callable[[Messages, int], Report]
"""Returns the delivery callback of a message, which is the one at this place of a run."""

COMMON: Mapping[str, str] = {
    "enable.idempotence": "true",
    "acks": "all",
    # Topics are made on purpose, with the right number of partitions: streamer topics apply.
    "allow.auto.create.topics": "false",
    "linger.ms": "1",
    # A message too large for the topic is found before it is sent; this limit must only not be narrower.
    "message.max.bytes": "8388608",
    "queue.buffering.max.messages": "200000",
}
CURES: Mapping[int, str] = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: NO_TOPIC,
    KafkaError._UNKNOWN_TOPIC: NO_TOPIC,
    KafkaError._UNKNOWN_PARTITION: NO_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: f"needs WRITE on the target and the dead-letter topic; {GRANT}",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: f"needs WRITE on its transactional id; {GRANT}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: f"needs READ on its group; {GRANT}",
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic, or lower limits.record_bytes_max",
}
UNSENT = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)
"""Errors of the client itself, before anything is sent: they leave no doubt about what happened."""
POLL_S = 0.05


class Partitions:
    """Maps source partitions to those of a topic, modulo its count. With equal counts the number stays, so order holds
    even without keys and a downstream join finds equal partitions. A count is asked once: a key never moves in a
    run."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._there: set[str] = set()

    def doubt(self) -> None:
        """Ask again whether the topics exist: a new producer would wait for a deleted topic and report only a
        timeout."""
        self._there.clear()

    def learn(self, producer: Any, messages: Iterable[Messages], deadline: Deadline) -> Mapping[str, int]:
        """The partition counts of at least the topics of these messages.

        Raises:
            Wait: the broker does not say (`Refused`: there is no such topic).
        """
        for topic in {message.topic for message in messages} - self._there:
            self._counts.setdefault(topic, _partition_count(producer, topic, deadline))
            self._there.add(topic)
        return self._counts

    def led(self, producer: Any) -> bool:
        """Whether a broker answers, and says that every partition of these topics has a leader."""
        try:
            found = [producer.list_topics(topic, timeout=ANSWER_S).topics[topic] for topic in self._counts]
        except KafkaException:
            return False
        return all(one.leader >= 0 for topic in found for one in topic.partitions.values())


def _partition_count(producer: Any, topic: str, deadline: Deadline) -> int:
    try:
        metadata = producer.list_topics(topic, timeout=deadline.left(at_least=0.1)).topics[topic]
    except KafkaException as error:
        raise Wait(f"partitions of {topic}: {error.args[0].str()}") from error
    if metadata.error is not None and metadata.error.code() not in CURES:
        raise Wait(f"partitions of {topic}: {metadata.error.str()}")  # its leader is being elected, say
    if metadata.error is not None and metadata.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise Refused(f"cannot send: {needs('WRITE', 'topic', topic)}")
    if metadata.error is not None or not metadata.partitions:
        raise Refused(f"topic {topic}: {metadata.error or 'no partitions'}; {CURES[KafkaError._UNKNOWN_TOPIC]}")
    return len(metadata.partitions)


def produce(
    producer: Any, unsent: deque[Messages], counts: Mapping[str, int], deadline: Deadline, told: Told | None = None
) -> None:
    """Hand messages to the client, in order, and remove them; `told` makes the callback of a delivery that fails.

    Raises:
        Wait: its queue is full and stays full.
    """
    produce = producer.produce
    while unsent:
        run, at = unsent.popleft(), 0
        topic, keys, values, headers = run.topic, run.keys, run.values, run.headers
        partition = run.partition % counts[topic]
        report = told(run, at) if told else None
        try:
            while at < len(run):
                try:
                    for at in range(at, len(run)):  # noqa: B020 - from the first that is not sent
                        # Keyword arguments double the time of the call.
                        if headers is None:
                            produce(topic, values[at], keys[at], partition, report)
                        else:
                            produce(topic, values[at], keys[at], partition, told and told(run, at), headers=headers[at])
                    at = len(run)
                except BufferError as error:
                    if deadline.passed():
                        raise Wait("the producer's queue is full") from error
                else:
                    continue
                producer.poll(POLL_S)  # let it drain
        finally:
            if at < len(run):
                unsent.appendleft(run.after(at))


def without(messages: Iterable[Messages], partitions: Iterable[int]) -> list[Messages]:
    """The messages that do not come from these source partitions."""
    gone = set(partitions)
    return [run for run in messages if run.partition not in gone]


def cure_of(error: KafkaError, topic: str) -> str:
    """The cure that a person can apply, for a message to this topic; empty when there is none."""
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return needs("WRITE", "topic", topic)
    return CURES.get(error.code(), "")


def made(make: MakeProducer, config: dict[str, Any]) -> Any:
    """A producer.

    Raises:
        BadConfig: a setting is not accepted. Temporary: the client cannot start.
    """
    try:
        return make(config)
    except KafkaException as error:
        said = error.args[0]
        kind = BadConfig if said.code() == KafkaError._INVALID_ARG else Temporary
        raise kind(f"no producer with [kafka.client] as it is: {said.str()}") from error


def abort(producer: Any, said: str, deadline: Deadline, cure: Callable[[], str] = str) -> NoReturn:
    """Roll back. Always raises: Aborted when that worked (Refused when there is a cure), Unclear when it did not."""
    try:
        producer.abort_transaction(deadline.left(at_least=0.5))
    except KafkaException as error:
        raise Unclear(f"{said}; abort: {error.args[0].str()}") from error
    except STUMBLES as error:
        raise Unclear(f"{said}; abort: {error}") from error
    hear(producer)  # as after a commit: a late second copy of this end could end the next transaction
    if mend := cure():
        raise Refused(f"{said}; {mend}")
    raise Aborted(said)
