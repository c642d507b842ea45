"""The at-least-once sink: it publishes at once, and commits offsets when every message before them is acknowledged."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from streamer.clock import Clock, Deadline
from streamer.errors import Refused, Temporary, Wait
from streamer.kafka.line import hear
from streamer.kafka.producing import COMMON, MakeProducer, Partitions, Report, cure_of, made, produce, without
from streamer.ports import Commit, Source
from streamer.records import Messages, Positions

log = structlog.get_logger(__name__)

STILL_S = 60.0
"""When the brokers lead every partition and have acknowledged nothing for this long, they never will: after a rolling
restart of the brokers an idempotent producer was seen to stand still for ever (librdkafka 2.16)."""


class AtLeastOnceSink:
    """Publishes predictions and dead letters at once; commits offsets when all messages before them are
    acknowledged."""

    def __init__(
        self,
        config: Mapping[str, str],
        source: Source,
        clock: Clock,
        make_producer: MakeProducer = Producer,
    ) -> None:
        self._producer = made(
            make_producer,
            {
                **COMMON,
                "message.timeout.ms": "0",  # a broker that is down is waited for
                "delivery.report.only.error": True,  # a callback for every message would be a cost for nothing
                **config,
                "error_cb": lambda error: log.warning("producer", error=error and error.str()),
                "logger": logging.getLogger("librdkafka"),
            },
        )
        self._source = source
        self._clock = clock
        self._partitions = Partitions()
        self._unsent: list[Messages] = []
        self._refused: deque[tuple[Messages, KafkaError]] = deque()  # never replaced: callbacks add from other threads
        self._callbacks: dict[int, Report] = {}
        self._flushing = False
        self._positions: Positions = {}
        self._given = 0  # messages that the client has taken
        self._done = 0  # of these, how many it had done with when it was last asked
        self._still_since: float | None = None  # while it waits for more, and nothing moves

    def write(self, messages: Sequence[Messages]) -> None:
        self._unsent += messages
        if self._flushing:
            return  # a flush waits for all that the client has: what is given to it meanwhile would prolong it
        try:
            self._send(Deadline(self._clock, 1.0))
        except Wait as error:
            log.warning("sink waits", error=str(error))

    def hand_over(self, deadline: Deadline) -> None:
        """The client has every message already, except those that wait for a flush."""

    def begin(self, positions: Positions, deadline: Deadline) -> Commit:
        self._unsent = [message for message, _ in self._take_refused()] + self._unsent
        self._send(deadline)
        self._flushing = True

        def end() -> None:
            try:
                waiting = self._producer.flush(deadline.left(at_least=0.01))
                self._check_moves(waiting)  # before the owner's thread gives it more
            finally:
                self._flushing = False
            if waiting:
                raise Wait(f"{waiting} messages are not acknowledged yet")
            if self._refused:
                # Kept, and sent again by the next commit; no position passes them.
                message, error = self._refused[0]
                cure = cure_of(error, message.topic) or "see its log"
                raise Refused(f"the broker refuses messages to {message.topic}: {error.str()}; {cure}")

        self._positions = positions
        return end

    def confirm(self) -> None:
        """Every message before the offsets is acknowledged. The owner thread commits them: on another thread the call
        would wait for the client's lock, which `consume` holds as long as few records come in."""
        self._source.commit(self._positions)

    def _check_moves(self, waiting: int) -> None:
        """Raise when the client stands still although it could send: only a new client sends the rest."""
        now, done = self._clock.now(), self._given - waiting
        if not waiting:
            self._still_since = None
        elif self._still_since is None or done > self._done:
            self._still_since = now
        elif now - self._still_since >= STILL_S and self._partitions.led(self._producer):
            still = f"nothing was acknowledged for {STILL_S:.0f} s, though every partition has a leader"
            raise Temporary(f"{still}; start the process again")
        self._done = done

    def recover(self, deadline: Deadline) -> None:
        """After a flush that did not return: the client still has its messages."""

    def forget(self, partitions: Sequence[int]) -> None:
        self._unsent = without(self._unsent, partitions)
        gone = set(partitions)
        self._refused += [(message, error) for message, error in self._take_refused() if message.partition not in gone]

    def _take_refused(self) -> list[tuple[Messages, KafkaError]]:
        """Take the refused messages one by one: a flush that was left behind may add some meanwhile, and none may get
        lost."""
        return [self._refused.popleft() for _ in range(len(self._refused))]

    def serve(self) -> None:
        hear(self._producer)

    def close(self, deadline: Deadline) -> None:
        self._producer.flush(deadline.left())

    def _send(self, deadline: Deadline) -> None:
        unsent = deque(self._unsent)
        try:
            counts = self._partitions.learn(self._producer, self._unsent, deadline)
            produce(self._producer, unsent, counts, deadline, self._told)
        except KafkaException as error:
            said = error.args[0]
            if said.fatal() or said.code() == KafkaError._FATAL:
                raise Temporary(f"the producer cannot go on: {said.str()}; start the process again") from error
            if cure := cure_of(said, unsent[0].topic):
                raise Refused(f"cannot send: {said.str()}; {cure}") from error
            raise Wait(f"cannot send: {said.str()}") from error
        finally:
            self._given += sum(map(len, self._unsent)) - sum(map(len, unsent))
            self._unsent = list(unsent)
            hear(self._producer)

    def _told(self, run: Messages, at: int) -> Report:
        """One callback for all messages of a source partition: a callback each would be half of their cost. A delivery
        report does not hold headers, so a message that has headers is kept."""
        if run.headers:
            one = Messages(run.topic, run.partition, [run.keys[at]], [run.values[at]], [run.headers[at]])
            return partial(self._refuse, one)
        known = self._callbacks.get(run.partition)
        if known is None:
            known = self._callbacks[run.partition] = partial(self._delivered, run.partition)
        return known

    def _refuse(self, message: Messages, error: KafkaError | None, _: Any) -> None:
        if error is not None:
            self._refused.append((message, error))

    def _delivered(self, partition: int, error: KafkaError | None, sent: Any) -> None:
        if error is not None:
            self._refuse(Messages(sent.topic(), partition, [sent.key()], [sent.value()]), error, sent)
