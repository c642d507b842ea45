"""The exactly-once sink: outcomes and offsets in one transaction."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streamer.clock import Clock, Deadline
from streamer.errors import Aborted, Refused, Temporary, Unclear, Unreachable, Wait
from streamer.kafka.line import EVERY_MS, RETRY_MAX_MS, RETRY_MS, SHORTEST_REST, STUMBLES, Line, hear
from streamer.kafka.producing import COMMON, CURES, UNSENT, MakeProducer, Partitions, abort, made, produce, without
from streamer.kafka.rights import Forbidden, answers, forbidden, is_token, needs, refused
from streamer.kafka.rivals import Rivals
from streamer.ports import Commit, Source
from streamer.records import Messages, Positions

log = structlog.get_logger(__name__)

DISTURBED = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)
ROLL_BACK_S = 5.0
ASK_S = 2.0
"""How long to ask the broker which right is missing."""
DELIVERY = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._INCONSISTENT)
"""Errors of a transaction that lost messages. They do not say which messages; the second does not even say why."""
TIMEOUT_MS = "5000"
"""Transaction timeout: if a replica dies and no replica takes its slot, readers of its partitions wait this long."""


class TransactionalSink:
    """Predictions, dead letters and offsets in one transaction, which opens only for outcomes that are ready.

    A transaction opens a little before its commit, so that the broker has the messages when the commit comes.

    librdkafka speaks the protocol in which a delayed request of one transaction can land in the next
    (no KIP-890 part 2). So every end that is neither a clear commit nor a clear abort ends this producer. `recover`
    makes a new one with the same id; its start bumps the epoch and fences late requests.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        transactional_id: str,
        source: Source,
        source_topic: str,
        clock: Clock,
        make_producer: MakeProducer = Producer,
        asked: Forbidden = forbidden,
    ) -> None:
        timeout_ms = config.get("transaction.timeout.ms", TIMEOUT_MS)
        retry_ms = max(RETRY_MS, int(config.get("retry.backoff.ms", RETRY_MS)))
        self._config: dict[str, Any] = {
            **COMMON,
            **config,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            "message.timeout.ms": timeout_ms,  # a longer one is refused: no message outlives its transaction
            "retry.backoff.ms": str(retry_ms),
            "retry.backoff.max.ms": str(max(retry_ms, int(config.get("retry.backoff.max.ms", RETRY_MAX_MS)))),
            "statistics.interval.ms": str(EVERY_MS),
            "logger": logging.getLogger("librdkafka"),
        }
        self._timeout_s = int(timeout_ms) / 1000
        self._retried_s = SHORTEST_REST * retry_ms / 1000
        self._source = source
        self._source_topic = source_topic
        self._clock = clock
        self._make_producer = make_producer
        self._forbidden = asked
        self._missing = ""  # which right the broker says is missing, since the last successful commit
        self._accepted = False  # has the broker ever let us in?
        self._identity: str | None = None  # why the broker, or we, do not accept the other
        self._partitions = Partitions()
        self._messages: list[Messages] = []
        self._begun: list[Messages] = []
        self._sent = 0  # how many runs of `_begun` are in the open transaction
        self._open_since: float | None = None
        self._producer: Any = None
        self._out: list[Any] = []  # producers within a commit, also those whose commit never returns
        self._disturbed = False
        self._line = Line()
        self._rivals = Rivals()
        self._slow_at: float | None = None  # when a request ended that may have been sent twice

    def write(self, messages: Sequence[Messages]) -> None:
        self._messages += messages

    def hand_over(self, deadline: Deadline) -> None:
        self._begun += self._messages
        self._messages = []
        if self._begun:
            self._open(deadline)

    def begin(self, positions: Positions, deadline: Deadline) -> Commit:
        group, absent = None, ""
        try:
            group = self._source.group()
        except Wait as error:
            absent = str(error)
        if group is None:
            self._roll_back("this replica is not a member of its group now", deadline)  # no reader should wait for it
            raise Wait(absent)
        self._begun += self._messages
        self._messages = []
        producer, started = self._open(deadline)
        self._open_since, self._sent = None, 0  # with any outcome, this transaction ends now
        offsets = [TopicPartition(self._source_topic, p, offset) for p, offset in positions.items()]

        def end() -> None:
            with self._once():
                producer.send_offsets_to_transaction(offsets, group, deadline.left(at_least=0.1))
            producer.flush(deadline.left(at_least=0.1))  # messages may take their time; a late copy of one is refused
            with self._once():
                producer.commit_transaction(deadline.left(at_least=0.1))
            hear(producer)  # was the line disturbed under this commit?

        def commit() -> None:
            self._out.append(producer)
            try:
                self._in_transaction(producer, end, started, deadline)
            finally:
                self._out.remove(producer)

        return commit

    def confirm(self) -> None:
        self._begun, self._missing = [], ""

    def _open(self, deadline: Deadline) -> tuple[Any, float]:
        """Put everything that has begun into a transaction. Returns its producer, and when it was opened."""
        if self._open_since is None and not self._line_held():
            self.recover(deadline)
        producer, began = self._producer, self._open_since
        started = self._clock.now() if began is None else began
        unsent = deque(self._begun[self._sent :])
        counts = self._partitions.learn(producer, unsent, deadline)

        def write_all() -> None:
            if began is None:
                producer.begin_transaction()
            produce(producer, unsent, counts, deadline)

        self._open_since, self._sent = None, 0  # unless all of it goes well
        self._in_transaction(producer, write_all, started, deadline)
        self._open_since, self._sent = started, len(self._begun)
        return producer, started

    def _in_transaction(self, producer: Any, call: Callable[[], None], started: float, deadline: Deadline) -> None:
        """Call, and raise what a failure means. `producer` is an argument, because a thread may be left behind with it.

        The client is never called inside an exception handler. confluent-kafka 2.16 never frees an error that it
        raises; an error that it raises inside a handler keeps the handled one too, its stack, and there the producer
        with its threads and buffers."""
        failure: KafkaError | None = None
        try:
            call()
        except KafkaException as error:
            failure = error.args[0]
        except STUMBLES as error:
            raise Unclear(f"transaction: the client stumbled over a message of its own: {error}") from error
        except Wait as error:
            said = str(error)
        else:
            return
        if failure is not None:
            self._failed(producer, failure, self._clock.now() - started, deadline)
        with self._once():
            abort(producer, f"transaction: {said}", deadline)

    @contextmanager
    def _once(self) -> Iterator[None]:
        """When this request took as long as the client waits before a retry, a first copy of it may still be on its
        way. That copy would commit the offsets or the end of this producer's next transaction."""
        began = self._clock.now()
        try:
            yield
        finally:
            now = self._clock.now()
            if now - began >= self._retried_s:
                self._slow_at = now

    def _line_held(self) -> bool:
        """Whether this producer may begin another transaction, because none of its requests can still be on its way."""
        slow_at, self._slow_at = self._slow_at, None
        if self._producer is None or self._disturbed:
            return False
        if slow_at is None or self._line.held(self._producer, slow_at, self._clock):
            return True
        log.info("a request of a transaction may have been sent twice; a new producer follows")
        return False

    def recover(self, deadline: Deadline) -> None:
        self._open_since, self._sent = None, 0
        if self._producer is not None:
            self._producer.purge()
        self._producer = self._identity = self._slow_at = None
        self._line = line = Line()
        on_error = partial(self._on_error, line)
        producer = made(self._make_producer, {**self._config, "stats_cb": line.told, "error_cb": on_error})
        failure: KafkaError | None = None
        try:
            producer.init_transactions(deadline.left(at_least=0.5))
        except KafkaException as error:
            failure = error.args[0]
        except STUMBLES as error:
            raise Unclear(f"no transaction coordinator: {error}") from error
        if failure is not None:
            self._not_let_in(producer, failure, deadline)
        self._producer = producer
        self._partitions.doubt()
        self._accepted, self._disturbed = True, False

    def _not_let_in(self, producer: Any, failure: KafkaError, deadline: Deadline) -> NoReturn:
        """The reason of a refusal. A producer that was admitted once is not ended by one broker while others answer,
        nor by a token server."""
        if failure.code() in CURES:
            raise Refused(f"cannot begin: {failure.str()}; {self._cure(failure.code(), deadline)}")
        hear(producer)  # what was wrong: the time-out says nothing of it
        why = self._identity
        if why is None or (self._accepted and (is_token(why) or answers(producer, self._source_topic))):
            raise Unclear(f"no transaction coordinator: {failure.str()}")
        raise Unreachable(f"cannot begin: {why}")

    def forget(self, partitions: Sequence[int]) -> None:
        self._messages = without(self._messages, partitions)
        kept = without(self._begun, partitions)
        if self._open_since is not None and len(kept) < len(self._begun):
            self._roll_back("some of its partitions were given up", Deadline(self._clock, ROLL_BACK_S))
        self._begun = kept

    def serve(self) -> None:
        # A producer that hangs in a commit goes on emitting statistics; they pile up unless they are heard.
        for producer in (self._producer, *self._out):
            if producer is not None:
                hear(producer)

    def close(self, deadline: Deadline) -> None:
        """Abort an open transaction: it was not committed in time, and must not hold up readers of the topics."""
        self._messages, self._begun = [], []
        self._roll_back("there was no time to commit it", deadline)
        self._producer = None

    def _roll_back(self, why: str, deadline: Deadline) -> None:
        """Abort an open transaction. If that fails, end its producer; the start of the next one aborts it."""
        if self._open_since is None:
            return
        self._open_since, self._sent = None, 0
        try:
            with self._once():
                abort(self._producer, why, deadline)
        except Aborted:
            return
        except Unclear as error:
            log.warning("cannot roll back; a new producer will", error=str(error))
            self._disturbed = True

    def _failed(self, producer: Any, error: KafkaError, took_s: float, deadline: Deadline) -> NoReturn:
        """Turn the error of a transactional call into the reaction to it. Always raises."""
        said = f"transaction: {error.str()}"
        soon = took_s < self._timeout_s  # later, the broker may have timed it out
        if error.code() == KafkaError._FENCED and soon and self._rivals.fenced(self._clock.now()):
            used = f"another process uses this replica's transactional id {self._config['transactional.id']}"
            raise Temporary(f"{used}; give each replica its own kafka.slot")
        if error.txn_requires_abort() or error.code() in UNSENT:
            with self._once():
                abort(producer, said, deadline, lambda: self._cure(error.code(), deadline))
        raise Unclear(said)

    def _cure(self, code: int, deadline: Deadline) -> str:
        """The name of what a person can mend; empty when time may mend it."""
        group = self._config.get("client.id", "")
        if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return needs("WRITE", "transactional id", f"{self._config['transactional.id']} (or the prefix {group}.)")
        if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return needs("READ", "group", group)
        generic = CURES.get(code, "")
        if code not in DELIVERY or (deadline.passed() and generic and not self._missing):
            return generic
        # A caller may give up its wait for the commit before the broker has answered; then the next call need not ask.
        if not self._missing:
            topics = sorted({message.topic for message in self._begun})
            self._missing = self._forbidden(self._config, topics, min(ASK_S, deadline.left(at_least=0.5)))
        return self._missing or generic

    def _on_error(self, line: Line, error: KafkaError | None) -> None:
        if line is not self._line:
            return  # one that was given up
        # As in `_once`: a request may have been sent twice, and a new producer before the next costs one request.
        if error is None or error.code() in DISTURBED:
            self._disturbed = True
        said = "no words" if error is None else error.str()  # the client has none for some fatal errors
        self._identity = refused(said, self._config) or self._identity
        log.warning("producer", error=said)
