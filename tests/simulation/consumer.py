"""A double of confluent_kafka.Consumer over the model: its group, callbacks, positions, pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from tests.simulation.broker import Entry, State
from tests.simulation.group import NOBODY, Refusal
from tests.simulation.producer import ask
from tests.simulation.wire import Wire

Callback = Callable[[Any, list[TopicPartition]], None]


class SimMessage:
    """A record, or what is said instead of one."""

    __slots__ = ("_entry", "_error", "_offset", "_partition", "_topic")

    def __init__(
        self, topic: str, partition: int, offset: int | None, entry: Entry | None, error: KafkaError | None = None
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._entry = entry
        self._error = error

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int | None:
        return self._offset

    def key(self) -> bytes | None:
        return self._entry.key if self._entry else None

    def value(self) -> bytes | None:
        return self._entry.value if self._entry else None

    def headers(self) -> Any:
        return self._entry.headers if self._entry else None

    def timestamp(self) -> tuple[int, int]:
        return 1, self._entry.at_ms if self._entry else -1


class SimConsumer:
    """One client instance."""

    def __init__(self, config: Mapping[str, Any], wire: Wire) -> None:
        self._wire = wire
        self._broker = wire.broker
        self._group = wire.broker.group
        self._committed_only = config.get("isolation.level", "read_committed") == "read_committed"
        self._tells_ends = config.get("enable.partition.eof") in ("true", True)
        self.member_id, self._generation = NOBODY
        self.owned: set[int] = set()
        self.polled_at = wire.now()
        self._topic = ""
        self._positions: dict[int, int] = {}
        self._failed: set[int] = set()  # without a position to start at, until assigned again
        self._told_ends: dict[int, int] = {}
        self._paused: set[int] = set()
        self._pending: list[tuple[str, set[int]]] = []
        self._serving: tuple[str, set[int]] | None = None
        self._callbacks: dict[str, Callback] = {}
        self._first = 0

    # -- what the group sees

    def reachable(self) -> bool:
        return self._wire.up()

    def waits(self) -> bool:
        return bool(self._pending) or self._serving is not None

    def told(self, generation: int, revoked: set[int], assigned: set[int]) -> None:
        self._generation = generation
        if revoked:
            self._pending.append(("revoke", set(revoked)))
        if assigned or not revoked:
            self._pending.append(("assign", set(assigned)))

    def expelled(self) -> None:
        self.member_id, self._generation = NOBODY
        kind = "revoke" if self._wire.mistakes_loss() else "lost"
        lost = set(self.owned)
        if self._serving is not None and self._serving[0] == "assign":
            lost |= self._serving[1]  # the application has just been told that they are its own
        self._pending = [(kind, lost)] if lost else []

    # -- what the application calls

    def subscribe(self, topics: list[str], on_assign: Callback, on_revoke: Callback, on_lost: Callback) -> None:
        self._wire.enter("subscribe")
        (self._topic,) = topics
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        self.polled_at = self._wire.now()
        self._group.clients.append(self)

    def consume(self, num_messages: int = 1, timeout: float = 0.0) -> list[SimMessage]:
        self._wire.enter("consume")
        self._serve()
        messages = self._fetch(num_messages)
        if not messages and timeout > 0:
            self._wire.sleep(timeout)
            self._serve()
            messages = self._fetch(num_messages)
        self.polled_at = self._wire.now()
        return messages

    def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        for one in partitions:
            self.owned.add(one.partition)
            self._failed.discard(one.partition)
            self._told_ends.pop(one.partition, None)
            self._positions[one.partition] = one.offset

    def incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        for one in partitions:
            self.owned.discard(one.partition)
            self._positions.pop(one.partition, None)

    def seek(self, partition: TopicPartition) -> None:
        self._positions[partition.partition] = partition.offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= {one.partition for one in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= {one.partition for one in partitions}

    def memberid(self) -> str:
        return self.member_id

    def list_topics(self, topic: str, timeout: float) -> None:
        self._wire.enter("list_topics")
        if not self._wire.up():
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def consumer_group_metadata(self) -> tuple[str, int]:
        return self.member_id, self._generation

    def committed(self, partitions: list[TopicPartition], timeout: float = 30.0) -> list[TopicPartition]:
        self._wire.enter("committed")
        asked = [one.partition for one in partitions]
        found = ask(self._wire, "OffsetFetch", lambda: self._group.stable(asked), timeout)
        return [
            TopicPartition(self._topic, partition, OFFSET_INVALID if offset is None else offset)
            for partition, offset in found.items()
        ]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool = True) -> list[TopicPartition]:
        self._wire.enter("commit")
        positions = {one.partition: one.offset for one in offsets}
        membership = (self.member_id, self._generation)
        try:
            ask(self._wire, "OffsetCommit", lambda: self._group.commit(*membership, positions), 5.0)
        except Refusal as error:
            if not asynchronous:
                raise KafkaException(KafkaError(error.code)) from error
        return offsets

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 30.0, cached: bool = False
    ) -> tuple[int, int]:
        self._wire.enter("get_watermark_offsets")
        log = self._broker.logs[partition.topic, partition.partition]
        return 0, log.end if cached else log.stable_end

    def close(self) -> None:
        self._wire.enter("close")
        lost = any(kind == "lost" for kind, _ in self._pending)
        self._pending = [("lost" if lost else "revoke", set(self.owned))] if self.owned else []
        self._serve()
        self._wire.enter("close")
        self._group.leave(self, self._wire.now())
        self.member_id, self._generation = NOBODY

    # -- what the client does by itself

    def _serve(self) -> None:
        while self._pending:
            kind, partitions = self._serving = self._pending.pop(0)
            if kind != "assign":
                partitions &= self.owned
            self._callbacks[kind](self, [TopicPartition(self._topic, number) for number in sorted(partitions)])
            self._wire.enter(kind)  # the process may have died in it
            if kind == "assign":
                self.incremental_assign(
                    TopicPartition(self._topic, number, OFFSET_STORED) for number in sorted(partitions - self.owned)
                )
            else:  # what the callback has not given up, the client does
                self.incremental_unassign(TopicPartition(self._topic, number) for number in partitions)
            self._serving = None
            if kind == "revoke":
                self._group.let_go(self, self._wire.now())

    def _fetch(self, most: int) -> list[SimMessage]:
        if not self._wire.up():
            return []
        messages: list[SimMessage] = []
        numbers = sorted(self.owned - self._paused - self._failed)
        self._first += 1
        for at in range(len(numbers)):
            number = numbers[(at + self._first) % len(numbers)]
            if len(messages) < most and self._starts(number, messages):
                self._read(number, most, messages)
        return messages

    def _starts(self, number: int, messages: list[SimMessage]) -> bool:
        """Whether it is known where to read."""
        position: int | None = self._positions[number]
        if position is not None and position >= 0:
            return True
        log = self._broker.logs[self._topic, number]
        if position == OFFSET_BEGINNING:
            position = 0
        elif position == OFFSET_END:
            position = log.stable_end
        else:
            try:
                position = self._group.stable([number])[number]
            except Refusal:
                position = None  # as librdkafka (2.16) takes it, when partitions have moved since it asked
        if position is None:
            self._failed.add(number)
            error = KafkaError(KafkaError._AUTO_OFFSET_RESET, "no position")
            messages.append(SimMessage(self._topic, number, None, None, error))
            return False
        self._positions[number] = position
        return True

    def _read(self, number: int, most: int, messages: list[SimMessage]) -> None:
        log = self._broker.logs[self._topic, number]
        end = log.stable_end if self._committed_only else log.end
        wanted = (State.COMMITTED,) if self._committed_only else (State.COMMITTED, State.OPEN, State.ABORTED)
        position = self._positions[number]
        while position < end and len(messages) < most:
            entry = log.entries[position]
            position += 1
            if entry.state in wanted:
                messages.append(SimMessage(self._topic, number, entry.offset, entry))
        self._positions[number] = position
        if self._tells_ends and position >= end and self._told_ends.get(number) != end and len(messages) < most:
            self._told_ends[number] = end
            messages.append(SimMessage(self._topic, number, end, None, KafkaError(KafkaError._PARTITION_EOF)))
