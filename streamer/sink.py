"""Outcomes to Kafka: two classes for the two guarantees, one shape. The only place that knows the producer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streamer.clock import Clock, Deadline
from streamer.errors import Aborted, BadConfig, Refused, Temporary, Unclear, Wait
from streamer.ports import Commit, Source
from streamer.records import Message, Positions

log = structlog.get_logger(__name__)

MakeProducer = Callable[[dict[str, Any]], Any]
Told = Callable[[int], Callable[[KafkaError | None, Any], None]]
"""Gives for a source partition what is to be called about each of its messages."""

COMMON: Mapping[str, str] = {
    "enable.idempotence": "true",
    "acks": "all",
    # Topics are made on purpose, with the right number of partitions: streamer topics apply.
    "allow.auto.create.topics": "false",
    "linger.ms": "1",
    # What is too large for the topic is found before it is sent; this only must not be the narrower limit.
    "message.max.bytes": "8388608",
    "queue.buffering.max.messages": "200000",
}
DISTURBED = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)
CURES: Mapping[int, str] = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "make the topics: streamer topics apply",
    KafkaError._UNKNOWN_TOPIC: "make the topics: streamer topics apply",
    KafkaError._UNKNOWN_PARTITION: "make the topics: streamer topics apply",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant Write on the target and the dead-letter topic",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "grant Write on the transactional id's prefix",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "grant Read on the group",
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic, or lower limits.record_bytes_max",
}
UNSENT = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
"""What the client itself refuses, before anything is sent: no doubt about what happened."""
POLL_S = 0.05
ROLL_BACK_S = 5.0


class _Partitions:
    """Folds source partitions onto a topic's: equal counts keep the number, so order holds even without keys
    and a join downstream finds equal partitions. Asked once a topic, so that a key never moves in mid-run."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def learn(self, producer: Any, messages: Iterable[Message], deadline: Deadline) -> Mapping[str, int]:
        """The partition counts of at least the topics of these messages.

        Raises:
            Wait: the broker does not say (`Refused`: there is no such topic).
        """
        for topic in {message.topic for message in messages} - self._counts.keys():
            self._counts[topic] = _partition_count(producer, topic, deadline)
        return self._counts


def _partition_count(producer: Any, topic: str, deadline: Deadline) -> int:
    try:
        metadata = producer.list_topics(topic, timeout=deadline.left(at_least=0.1)).topics[topic]
    except KafkaException as error:
        raise Wait(f"partitions of {topic}: {error.args[0].str()}") from error
    if metadata.error is not None and metadata.error.code() not in CURES:
        raise Wait(f"partitions of {topic}: {metadata.error.str()}")  # its leader is being elected, say
    if metadata.error is not None or not metadata.partitions:
        raise Refused(f"topic {topic}: {metadata.error or 'no partitions'}; {CURES[KafkaError._UNKNOWN_TOPIC]}")
    return len(metadata.partitions)


def _without(messages: Sequence[Message], partitions: Sequence[int]) -> list[Message]:
    """The messages that do not come from these source partitions."""
    gone = set(partitions)
    return [message for message in messages if message.partition not in gone]


def _produce(
    producer: Any, messages: deque[Message], counts: Mapping[str, int], deadline: Deadline, told: Told | None = None
) -> None:
    """Hand messages to the client, in order, and take them out; `told` hears of those that it cannot deliver.

    Raises:
        Wait: its queue is full and stays full.
    """
    produce = producer.produce
    while messages:
        message = messages[0]
        topic, partition = message.topic, message.partition
        # An empty list of headers would double the time of the call, and so would names for its arguments.
        headers = {"headers": message.headers} if message.headers else {}
        callback = told(partition) if told else None
        try:
            produce(topic, message.value, message.key, partition % counts[topic], callback, **headers)
            messages.popleft()
        except BufferError as error:  # the queue is full: let it drain
            if deadline.passed():
                raise Wait("the producer's queue is full") from error
            producer.poll(POLL_S)


def _made(make: MakeProducer, config: dict[str, Any]) -> Any:
    try:
        return make(config)
    except KafkaException as error:
        said = error.args[0]
        kind = BadConfig if said.code() == KafkaError._INVALID_ARG else Temporary
        raise kind(f"no producer with [kafka.client] as it is: {said.str()}") from error


def _abort(producer: Any, said: str, deadline: Deadline, code: int = KafkaError.NO_ERROR) -> None:
    """Roll back. Always raises: Aborted when that worked, Unclear when it did not."""
    try:
        producer.abort_transaction(deadline.left(at_least=0.5))
    except KafkaException as error:
        raise Unclear(f"{said}; abort: {error.args[0].str()}") from error
    producer.poll(0)  # as after a commit: a late second copy of this end could end the next transaction
    if code in CURES:
        raise Refused(f"{said}; {CURES[code]}")
    raise Aborted(said)


class TransactionalSink:
    """Predictions, dead letters and positions in one transaction, opened only for what is ready.

    It is opened a little before its commit, so that the broker has its messages when the commit comes.

    librdkafka speaks the protocol in which a delayed request of one transaction can land in the next
    (no KIP-890 part 2). So whatever is not plainly committed or plainly aborted ends this producer: `recover`
    makes a new one of the same id, whose start bumps the epoch and fences every straggler.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        transactional_id: str,
        source: Source,
        source_topic: str,
        clock: Clock,
        make_producer: MakeProducer = Producer,
    ) -> None:
        timeout_ms = config.get("transaction.timeout.ms", "15000")
        self._config: dict[str, Any] = {
            **COMMON,
            **config,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            "message.timeout.ms": timeout_ms,  # a longer one is refused: no message outlives its transaction
            "error_cb": self._on_error,
            "logger": logging.getLogger("librdkafka"),
        }
        self._timeout_s = int(timeout_ms) / 1000
        self._source = source
        self._source_topic = source_topic
        self._clock = clock
        self._make_producer = make_producer
        self._partitions = _Partitions()
        self._messages: list[Message] = []
        self._begun: list[Message] = []
        self._sent = 0  # of those that are begun, how many are in the open transaction
        self._open_since: float | None = None
        self._producer: Any = None
        self._disturbed = False

    def write(self, messages: Sequence[Message]) -> None:
        self._messages += messages

    def hand_over(self, deadline: Deadline) -> None:
        self._begun += self._messages
        self._messages = []
        if self._begun:
            self._open(deadline)

    def begin(self, positions: Positions, deadline: Deadline) -> Commit:
        group = self._source.group()
        self._begun += self._messages
        self._messages = []
        producer, started = self._open(deadline)
        self._open_since, self._sent = None, 0  # whatever comes of it, it ends now
        offsets = [TopicPartition(self._source_topic, p, offset) for p, offset in positions.items()]

        def end() -> None:
            producer.send_offsets_to_transaction(offsets, group, deadline.left(at_least=0.1))
            producer.commit_transaction(deadline.left(at_least=0.1))
            producer.poll(0)  # serve error callbacks: was the line disturbed under this commit?

        return lambda: self._in_transaction(producer, end, started, deadline)

    def confirm(self) -> None:
        self._begun = []

    def _open(self, deadline: Deadline) -> tuple[Any, float]:
        """Have all that is begun in a transaction; its producer, and when it was opened."""
        if self._open_since is None and (self._producer is None or self._disturbed):
            self.recover(deadline)
        producer, began = self._producer, self._open_since
        started = self._clock.now() if began is None else began
        unsent = deque(self._begun[self._sent :])
        counts = self._partitions.learn(producer, unsent, deadline)

        def produce() -> None:
            if began is None:
                producer.begin_transaction()
            _produce(producer, unsent, counts, deadline)

        self._open_since, self._sent = None, 0  # unless all of it goes well
        self._in_transaction(producer, produce, started, deadline)
        self._open_since, self._sent = started, len(self._begun)
        return producer, started

    def _in_transaction(self, producer: Any, call: Callable[[], None], started: float, deadline: Deadline) -> None:
        """Call, on whatever thread, and raise what a failure means. The producer is given, as a thread that was
        left behind must not touch the one that has replaced it."""
        try:
            call()
        except KafkaException as error:
            self._failed(producer, error.args[0], self._clock.now() - started, deadline)
        except Wait as error:
            _abort(producer, f"transaction: {error}", deadline)

    def recover(self, deadline: Deadline) -> None:
        self._open_since, self._sent = None, 0
        if self._producer is not None:
            self._producer.purge()
        self._producer = None
        producer = _made(self._make_producer, self._config)
        try:
            producer.init_transactions(deadline.left(at_least=0.5))
        except KafkaException as error:
            failure = error.args[0]
            if failure.code() in CURES:
                raise Refused(f"cannot begin: {failure.str()}; {CURES[failure.code()]}") from error
            raise Unclear(f"no transaction coordinator: {failure.str()}") from error
        self._producer = producer
        self._disturbed = False

    def forget(self, partitions: Sequence[int]) -> None:
        self._messages = _without(self._messages, partitions)
        kept = _without(self._begun, partitions)
        if self._open_since is not None and len(kept) < len(self._begun):
            self._roll_back(Deadline(self._clock, ROLL_BACK_S))
        self._begun = kept

    def close(self, deadline: Deadline) -> None:
        """What is open was not committed in time, and must not hold up who reads the topics."""
        self._messages, self._begun = [], []
        if self._open_since is not None:
            self._roll_back(deadline)
        self._producer = None

    def _roll_back(self, deadline: Deadline) -> None:
        """End the open transaction with nothing, or else its producer: the next one's start ends it."""
        self._open_since, self._sent = None, 0
        try:
            _abort(self._producer, "messages of partitions that were given up", deadline)
        except Aborted:
            return
        except Unclear as error:
            log.warning("cannot roll back; a new producer will", error=str(error))
            self._disturbed = True

    def _failed(self, producer: Any, error: KafkaError, took_s: float, deadline: Deadline) -> None:
        """Turn what a transactional call said into what to do about it. Always raises."""
        said = f"transaction: {error.str()}"
        if error.code() == KafkaError._FENCED and took_s < self._timeout_s:
            # Not our own timeout, so somebody else began with this id; fighting back would fence them in turn.
            raise Temporary(
                f"another process uses this replica's transactional id {self._config['transactional.id']}; "
                "give each replica its own kafka.slot"
            )
        if error.txn_requires_abort() or error.code() in UNSENT:
            _abort(producer, said, deadline, error.code())
        raise Unclear(said)

    def _on_error(self, error: KafkaError) -> None:
        # librdkafka may have sent EndTxn twice: the app sees success, and the late first copy could end the next
        # transaction. A new producer before the next one costs one request.
        if error.code() in DISTURBED:
            self._disturbed = True
        log.warning("producer", error=error.str())


class AtLeastOnceSink:
    """Predictions and dead letters at once, positions when all before them are acknowledged."""

    def __init__(
        self,
        config: Mapping[str, str],
        source: Source,
        clock: Clock,
        make_producer: MakeProducer = Producer,
    ) -> None:
        self._producer = _made(
            make_producer,
            {
                **COMMON,
                "message.timeout.ms": "0",  # a broker that is down is waited for
                "delivery.report.only.error": True,  # a callback for every message would be a cost for nothing
                **config,
                "error_cb": lambda error: log.warning("producer", error=error.str()),
                "logger": logging.getLogger("librdkafka"),
            },
        )
        self._source = source
        self._clock = clock
        self._partitions = _Partitions()
        self._unsent: list[Message] = []
        self._refused: list[tuple[Message, KafkaError]] = []
        self._callbacks: dict[int, Callable[[KafkaError | None, Any], None]] = {}
        self._flushing = False

    def write(self, messages: Sequence[Message]) -> None:
        self._unsent += messages
        if self._flushing:
            return  # a flush waits for all that the client has: what is given to it meanwhile would prolong it
        try:
            self._send(Deadline(self._clock, 1.0))
        except Wait as error:
            log.warning("sink waits", error=str(error))

    def hand_over(self, deadline: Deadline) -> None:
        """It has everything already, but what waits for a flush."""

    def begin(self, positions: Positions, deadline: Deadline) -> Commit:
        self._unsent = [message for message, _ in self._refused] + self._unsent
        self._refused = []
        self._send(deadline)
        self._flushing = True

        def end() -> None:
            try:
                waiting = self._producer.flush(deadline.left(at_least=0.01))
            finally:
                self._flushing = False
            if waiting:
                raise Wait(f"{waiting} messages are not acknowledged yet")
            if self._refused:
                # Kept, and sent again by the next commit; no position passes them.
                _, error = self._refused[0]
                raise Refused(f"the broker refuses messages: {error.str()}; {CURES.get(error.code(), 'see its log')}")
            self._source.commit(positions)

        return end

    def confirm(self) -> None:
        """What was acknowledged is kept no longer."""

    def recover(self, deadline: Deadline) -> None:
        """After a flush that did not come back: its messages are still the client's."""

    def forget(self, partitions: Sequence[int]) -> None:
        self._unsent = _without(self._unsent, partitions)
        gone = set(partitions)
        self._refused = [(message, error) for message, error in self._refused if message.partition not in gone]

    def close(self, deadline: Deadline) -> None:
        self._producer.flush(deadline.left())

    def _send(self, deadline: Deadline) -> None:
        unsent = deque(self._unsent)
        try:
            counts = self._partitions.learn(self._producer, self._unsent, deadline)
            _produce(self._producer, unsent, counts, deadline, self._told)
        except KafkaException as error:
            said = error.args[0]
            if said.fatal() or said.code() == KafkaError._FATAL:
                raise Temporary(f"the producer cannot go on: {said.str()}; start the process again") from error
            if said.code() in CURES:
                raise Refused(f"cannot send: {said.str()}; {CURES[said.code()]}") from error
            raise Wait(f"cannot send: {said.str()}") from error
        finally:
            self._unsent = list(unsent)
            self._producer.poll(0)

    def _told(self, partition: int) -> Callable[[KafkaError | None, Any], None]:
        """The callback of a source partition: one for all its messages, as one each would be half of their cost."""
        known = self._callbacks.get(partition)
        if known is None:
            known = self._callbacks[partition] = partial(self._delivered, partition)
        return known

    def _delivered(self, partition: int, error: KafkaError | None, sent: Any) -> None:
        if error is not None:
            message = Message(sent.topic(), partition, sent.key(), sent.value(), sent.headers() or [])
            self._refused.append((message, error))
