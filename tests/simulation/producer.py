"""A double of confluent_kafka.Producer, transactional, over the model: its states, retries and error flags."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests.simulation.broker import Data, Place
from tests.simulation.group import Refusal
from tests.simulation.wire import Lost, Wire

T = TypeVar("T")
RETRIED = (KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.UNSTABLE_OFFSET_COMMIT)
RETRY_S = 0.02
FENCED = KafkaError(KafkaError._FENCED, "fenced by another producer of this id", fatal=True)
ABORTABLE = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.TRANSACTION_ABORTABLE,
)


def ask(
    wire: Wire, name: str, request: Callable[[], T], timeout_s: float, lost: Callable[[], None] = lambda: None
) -> T:
    """One request until it is answered: librdkafka retries what it may, and counts what was `lost`.

    Raises:
        Refusal: the answer. KafkaException: _TIMED_OUT.
    """
    until = wire.now() + timeout_s
    while True:
        pause_s = RETRY_S
        try:
            return wire.deliver(name, request)
        except Refusal as error:
            if error.code not in RETRIED:
                raise
        except Lost as error:
            lost()
            pause_s = error.seconds
        wire.sleep(min(pause_s, max(until - wire.now(), 0.001)))
        if wire.now() >= until:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{name} timed out", retriable=True))


class SimProducer:
    """One client instance."""

    def __init__(self, config: Mapping[str, Any], wire: Wire) -> None:
        self._wire = wire
        self._broker = wire.broker
        self._id: str = config["transactional.id"]
        self._timeout_s = int(config["transaction.timeout.ms"]) / 1000
        self._error_cb: Callable[[KafkaError], None] = config.get("error_cb", lambda error: None)
        self._state = "new"  # ready, begun, ending
        self._error: KafkaError | None = None
        self._noticed: list[KafkaError] = []
        self._epoch = -1
        self._serial = 0
        self._added: set[Place] = set()
        self._touched = False
        self._queue: dict[Place, list[tuple[int, Data]]] = {}
        self._sequences: dict[Place, int] = {}
        self._tried: dict[Place, int] = {}
        self._in_doubt = False
        self._stats_cb: Callable[[str], None] = config.get("stats_cb", lambda said: None)
        self._lost = 0

    # -- what the application calls

    def init_transactions(self, timeout: float = 30.0) -> None:
        self._wire.enter("init_transactions")
        _, self._epoch = self._ask(
            "InitProducerId", lambda: self._broker.init_producer_id(self._id, self._timeout_s), timeout
        )
        self._state = "ready"

    def begin_transaction(self) -> None:
        self._wire.enter("begin_transaction")
        self._check("ready")
        self._state = "begun"
        self._serial = next(self._broker.serials)
        self._added, self._touched = set(), False

    def produce(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = 0,
        callback: Any = None, headers: Any = None,
    ) -> None:  # fmt: skip
        self._wire.enter("produce")
        self._check("begun")
        place = (topic, partition)
        sequence = self._sequences[place] = self._sequences.get(place, -1) + 1
        data = Data(key, value, headers, self._wire.time_ms(), self._serial)
        self._queue.setdefault(place, []).append((sequence, data))
        if self._wire.sends_ahead():
            self._send()

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], group: Any, timeout: float = 30.0) -> None:
        self._wire.enter("send_offsets_to_transaction")
        self._check("begun")
        until = self._wire.now() + timeout
        self._touched = True
        positions = {one.partition: one.offset for one in offsets}
        self._ask("AddOffsetsToTxn", lambda: self._broker.add_offsets(self._id, self._epoch), timeout)
        self._ask(
            "TxnOffsetCommit",
            lambda: self._broker.commit_offsets(self._id, self._epoch, group, positions),
            until - self._wire.now(),
        )

    def commit_transaction(self, timeout: float = 30.0) -> None:
        self._wire.enter("commit_transaction")
        if self._state != "ending":
            self._check("begun")
        self._state = "ending"
        until = self._wire.now() + timeout
        if self.flush(timeout):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "messages are not sent", retriable=True))
        self._raise_error()
        self._end(True, until - self._wire.now())

    def abort_transaction(self, timeout: float = 30.0) -> None:
        self._wire.enter("abort_transaction")
        self._raise_fatal()
        if self._state != "begun" and self._error is None:
            raise KafkaException(KafkaError(KafkaError._STATE, f"abort while {self._state}"))
        until = self._wire.now() + timeout
        self._forget_queue()
        fenced = self._error is not None and self._error.code() == KafkaError.INVALID_PRODUCER_EPOCH
        self._error = None
        if fenced:  # the client asks for a new epoch, and is told that it has been replaced
            self._fail(Refusal(KafkaError.INVALID_PRODUCER_EPOCH))
        self._end(False, until - self._wire.now())
        if self._in_doubt:  # numbers that the broker may have seen cannot be given again: KIP-360
            _, self._epoch = self._ask(
                "InitProducerId", lambda: self._broker.bump(self._id, self._epoch), until - self._wire.now()
            )
            self._sequences.clear()
            self._tried.clear()
            self._in_doubt = False

    def flush(self, timeout: float = 30.0) -> int:
        """Messages that are left."""
        self._wire.enter("flush")
        until = self._wire.now() + timeout
        while self._error is None and any(self._queue.values()):
            self._send()
            if self._wire.now() >= until:
                return sum(map(len, self._queue.values()))
            if any(self._queue.values()):
                self._wire.sleep(min(RETRY_S, until - self._wire.now()))
        self._raise_fatal()
        return 0

    def poll(self, timeout: float = 0.0) -> int:
        self._wire.enter("poll")
        if timeout:
            self._wire.sleep(timeout)
        coordinator = {"disconnects": self._lost, "req_timeouts": 0}
        self._stats_cb(json.dumps({"ts": round(self._wire.now() * 1e6), "brokers": {"TxnCoordinator": coordinator}}))
        noticed, self._noticed = self._noticed, []
        for error in noticed:
            self._error_cb(error)
        self._raise_fatal()
        return len(noticed)

    def purge(self) -> None:
        """What is thrown away counts as not delivered: its transaction can only be aborted."""
        self._wire.enter("purge")
        if any(self._queue.values()) and self._error is None:
            self._error = KafkaError(KafkaError._INCONSISTENT, "messages were not delivered", txn_requires_abort=True)
        self._forget_queue()

    def list_topics(self, topic: str, timeout: float = 30.0) -> Any:
        self._wire.enter("list_topics")
        size = self._broker.topics[topic]
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=dict.fromkeys(range(size)))})

    # -- what the client does by itself

    def _send(self) -> None:
        """One try for everything queued; what is not answered stays, with its sequence numbers."""
        for place in [place for place, batch in self._queue.items() if batch]:
            batch = tuple(self._queue[place])
            try:
                if place not in self._added:
                    self._touched = True
                    self._wire.deliver(
                        "AddPartitionsToTxn",
                        lambda place=place: self._broker.add_partitions(self._id, self._epoch, [place]),  # type: ignore[misc]
                    )
                    self._added.add(place)
                self._tried[place] = batch[-1][0]
                self._wire.deliver(
                    "Produce",
                    lambda place=place, batch=batch: self._broker.produce(self._id, self._epoch, place, batch),  # type: ignore[misc]
                )
                self._queue[place] = self._queue[place][len(batch) :]
            except Lost as error:  # of a partition's leader the application hears; of a coordinator never
                self._noticed.append(KafkaError(error.code, "the line was disturbed"))
            except Refusal as error:
                if error.code == KafkaError.INVALID_PRODUCER_EPOCH and place not in self._added:
                    self._error = FENCED  # a coordinator knows; a leader may only be behind
                elif error.code not in RETRIED:
                    self._error = KafkaError(error.code, str(error), txn_requires_abort=True)

    def _ask(self, name: str, request: Callable[[], T], timeout: float) -> T:
        try:
            return ask(self._wire, name, request, timeout, self._count_lost)
        except Refusal as error:
            self._fail(error)
            raise

    def _count_lost(self) -> None:
        self._lost += 1

    def _end(self, committed: bool, timeout: float) -> None:
        if self._touched:
            self._ask("EndTxn", lambda: self._broker.end_transaction(self._id, self._epoch, committed), timeout)
        self._state = "ready"

    def _fail(self, refusal: Refusal) -> None:
        if refusal.code in ABORTABLE:
            self._error = KafkaError(refusal.code, str(refusal), txn_requires_abort=True)
        elif refusal.code == KafkaError.INVALID_PRODUCER_EPOCH:
            self._error = FENCED
        else:
            self._error = KafkaError(refusal.code, str(refusal), fatal=True)
        raise KafkaException(self._error)

    def _check(self, state: str) -> None:
        self._raise_error()
        if self._state != state:
            raise KafkaException(KafkaError(KafkaError._STATE, f"{self._state}, not {state}"))

    def _raise_error(self) -> None:
        if self._error is not None:
            raise KafkaException(self._error)

    def _raise_fatal(self) -> None:
        if self._error is not None and self._error.fatal():
            raise KafkaException(self._error)

    def _forget_queue(self) -> None:
        for place, batch in self._queue.items():
            if batch and batch[0][0] <= self._tried.get(place, -1):
                self._in_doubt = True
            elif batch:
                self._sequences[place] = batch[0][0] - 1
        self._queue.clear()
