"""A Kafka broker as far as exactly-once needs one: logs, transactions, a group. Pure: time is told, nothing waits.

It speaks the protocol that librdkafka speaks: no epoch for each transaction (KIP-890 part 2), so that a request that
comes late can land in the next transaction of the same producer epoch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import count
from typing import NamedTuple

from confluent_kafka import KafkaError

from tests.simulation.group import Group, Refusal

Place = tuple[str, int]
"""Topic and partition."""


class State(Enum):
    """Of a record in a log."""

    OPEN = "of a transaction that has not ended"
    COMMITTED = "visible"
    ABORTED = "never visible"
    MARKER = "the end of a transaction"


class Entry:
    """One offset of a log. `serial` is the client's own count of transactions, which no broker sees: it tells
    whether what belongs together stayed together."""

    __slots__ = ("at_ms", "headers", "key", "offset", "serial", "state", "value")

    def __init__(self, offset: int, data: Data, state: State) -> None:
        self.offset = offset
        self.key, self.value, self.headers, self.at_ms, self.serial = data
        self.state = state


class Data(NamedTuple):
    """What a record holds."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None
    at_ms: int
    serial: int


MARK = Data(None, None, None, 0, 0)


class Log:
    """One partition."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.open: dict[int, list[Entry]] = {}  # producer id -> the records of its open transaction
        self.producers: dict[int, tuple[int, int]] = {}  # producer id -> epoch, last sequence number

    @property
    def end(self) -> int:
        """The high watermark."""
        return len(self.entries)

    @property
    def stable_end(self) -> int:
        """The last stable offset: where the first open transaction begins."""
        return min([entries[0].offset for entries in self.open.values()], default=len(self.entries))

    def append(self, data: Data, state: State = State.COMMITTED) -> Entry:
        """Add one record."""
        entry = Entry(len(self.entries), data, state)
        self.entries.append(entry)
        return entry

    def mark(self, pid: int, epoch: int, state: State) -> None:
        """End a producer's transaction here."""
        for entry in self.open.pop(pid, ()):
            entry.state = state
        self.append(MARK, State.MARKER)
        known, sequence = self.producers.get(pid, (-1, -1))
        self.producers[pid] = (epoch, sequence if known == epoch else -1)

    def visible(self) -> list[Entry]:
        """What a read_committed reader finds."""
        return [entry for entry in self.entries[: self.stable_end] if entry.state is State.COMMITTED]


class Phase(Enum):
    """Of a transactional id."""

    EMPTY = "nothing yet"
    ONGOING = "open"
    PREPARED = "decided, and its markers are being written"
    COMPLETE = "ended"


class Transaction:
    """What the coordinator knows of a transactional id. Its epoch outlives its transactions."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.epoch = -1
        self.timeout_s = 0.0
        self.phase = Phase.EMPTY
        self.committed = False
        self.started = 0.0
        self.places: set[Place] = set()
        self.with_group = False
        self.waits = 0  # markers that are not written yet


class Broker:
    """One broker. `marker_delay` says in seconds how long the next marker takes: a commit is answered when it is
    decided, and seen when its marker is written."""

    def __init__(self, topics: dict[str, int], group: Group, marker_delay: Callable[[], float] = lambda: 0.0) -> None:
        self.topics = topics
        self.logs = {(topic, number): Log() for topic, size in topics.items() for number in range(size)}
        self.group = group
        self.transactions: dict[str, Transaction] = {}
        self.now = 0.0
        self.serials = count(1)
        self.on_commit: Callable[[str, dict[int, int]], None] = lambda transactional_id, positions: None
        self._marker_delay = marker_delay
        self._offsets_epochs: dict[int, int] = {}  # of the partition that holds the group's positions
        self._late: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    # -- time

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        """Something arrives or ends after this time."""
        heapq.heappush(self._late, (self.now + delay_s, next(self._order), call))

    def advance(self, now: float) -> None:
        """Time has come to `now`: what is due happens, in order."""
        self.now = now
        while self._late and self._late[0][0] <= now:
            _, _, call = heapq.heappop(self._late)
            try:
                call()
            except Refusal:
                continue  # nobody waits for this answer
        for transactional_id, transaction in self.transactions.items():
            if transaction.phase is Phase.ONGOING and now - transaction.started > transaction.timeout_s:
                transaction.epoch += 1
                self._end(transactional_id, transaction, committed=False)
        self.group.turn(now)

    # -- the requests of a transactional producer

    def init_producer_id(self, transactional_id: str, timeout_s: float) -> tuple[int, int]:
        """A producer id and its epoch; ends what the predecessor left open, and fences it."""
        transaction = self.transactions.get(transactional_id)
        if transaction is None:
            transaction = self.transactions[transactional_id] = Transaction(len(self.transactions) + 1)
        if transaction.phase is Phase.ONGOING:
            transaction.epoch += 1
            self._end(transactional_id, transaction, committed=False)
            raise Refusal(KafkaError.CONCURRENT_TRANSACTIONS)
        if transaction.phase is Phase.PREPARED:
            raise Refusal(KafkaError.CONCURRENT_TRANSACTIONS)
        transaction.epoch += 1
        transaction.phase = Phase.EMPTY
        transaction.timeout_s = timeout_s
        return transaction.pid, transaction.epoch

    def bump(self, transactional_id: str, epoch: int) -> tuple[int, int]:
        """The next epoch of a producer that is still the one of its id."""
        transaction = self._of(transactional_id, epoch)
        if transaction.phase is Phase.PREPARED:
            raise Refusal(KafkaError.CONCURRENT_TRANSACTIONS)
        transaction.epoch += 1
        return transaction.pid, transaction.epoch

    def add_partitions(self, transactional_id: str, epoch: int, places: Iterable[Place]) -> None:
        """These partitions belong to the transaction, which begins if none is open."""
        self._ongoing(transactional_id, epoch).places.update(places)

    def add_offsets(self, transactional_id: str, epoch: int) -> None:
        """The group's positions belong to the transaction, which begins if none is open."""
        self._ongoing(transactional_id, epoch).with_group = True

    def produce(self, transactional_id: str, epoch: int, place: Place, batch: Sequence[tuple[int, Data]]) -> None:
        """Append what has the next sequence numbers; what has earlier ones is there already."""
        transaction, log = self.transactions[transactional_id], self.logs[place]
        pid = transaction.pid
        known, last = log.producers.get(pid, (-1, -1))
        if epoch < known:
            raise Refusal(KafkaError.INVALID_PRODUCER_EPOCH)
        if epoch > known:
            last = -1
        fresh = [(sequence, data) for sequence, data in batch if sequence > last]
        if not fresh:
            return
        if pid not in log.open:  # the leader asks the coordinator (KIP-890 part 1)
            if transaction.epoch != epoch or transaction.phase is not Phase.ONGOING or place not in transaction.places:
                raise Refusal(KafkaError.INVALID_TXN_STATE)
            log.open[pid] = []
        if fresh[0][0] != last + 1:
            raise Refusal(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        log.open[pid] += [log.append(data, State.OPEN) for _, data in fresh]
        log.producers[pid] = (epoch, fresh[-1][0])

    def commit_offsets(
        self, transactional_id: str, epoch: int, membership: tuple[str, int], positions: dict[int, int]
    ) -> None:
        """Positions of the group within the transaction, of a member in its generation."""
        transaction = self.transactions[transactional_id]
        pid = transaction.pid
        if epoch < self._offsets_epochs.get(pid, -1):
            raise Refusal(KafkaError.INVALID_PRODUCER_EPOCH)
        open_here = pid in self.group.pending
        if not open_here and (
            transaction.epoch != epoch or transaction.phase is not Phase.ONGOING or not transaction.with_group
        ):
            raise Refusal(KafkaError.INVALID_TXN_STATE)
        self.group.commit_in_transaction(pid, *membership, positions)
        self._offsets_epochs[pid] = epoch

    def end_transaction(self, transactional_id: str, epoch: int, committed: bool) -> None:
        """Commit or abort. A second request for the same end is answered as the first."""
        transaction = self._of(transactional_id, epoch)
        if transaction.phase is Phase.ONGOING:
            self._end(transactional_id, transaction, committed)
        elif transaction.phase is Phase.EMPTY or transaction.committed != committed:
            raise Refusal(KafkaError.INVALID_TXN_STATE)
        elif transaction.phase is Phase.PREPARED:
            raise Refusal(KafkaError.CONCURRENT_TRANSACTIONS)

    def _of(self, transactional_id: str, epoch: int) -> Transaction:
        transaction = self.transactions[transactional_id]
        if transaction.epoch != epoch:
            raise Refusal(KafkaError.INVALID_PRODUCER_EPOCH)
        return transaction

    def _ongoing(self, transactional_id: str, epoch: int) -> Transaction:
        transaction = self._of(transactional_id, epoch)
        if transaction.phase is Phase.PREPARED:
            raise Refusal(KafkaError.CONCURRENT_TRANSACTIONS)
        if transaction.phase is not Phase.ONGOING:
            transaction.phase, transaction.started = Phase.ONGOING, self.now
        return transaction

    def _end(self, transactional_id: str, transaction: Transaction, committed: bool) -> None:
        transaction.phase, transaction.committed = Phase.PREPARED, committed
        pid, epoch = transaction.pid, transaction.epoch
        state = State.COMMITTED if committed else State.ABORTED
        marks: list[Callable[[], object]] = [
            lambda log=self.logs[place]: log.mark(pid, epoch, state)  # type: ignore[misc]
            for place in sorted(transaction.places)
        ]
        if transaction.with_group:
            marks.append(lambda: self._complete_offsets(transactional_id, transaction))
        transaction.places, transaction.with_group = set(), False
        transaction.waits = len(marks)
        for mark in marks:
            self._write(mark, transaction)
        if not marks:
            transaction.phase = Phase.COMPLETE

    def _write(self, mark: Callable[[], object], transaction: Transaction) -> None:
        def write() -> None:
            mark()
            transaction.waits -= 1
            if not transaction.waits:
                transaction.phase = Phase.COMPLETE

        delay_s = self._marker_delay()
        if delay_s:
            self.later(delay_s, write)
        else:
            write()

    def _complete_offsets(self, transactional_id: str, transaction: Transaction) -> None:
        self._offsets_epochs[transaction.pid] = transaction.epoch
        moved = self.group.complete(transaction.pid, transaction.committed)
        if moved:
            self.on_commit(transactional_id, moved)
