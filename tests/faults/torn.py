"""The oracle for torn transactions, over the wire: reads the broker's logs, marks included, and puts every transaction
of a group together.

A transaction of the coordinator's log (`__transaction_state`) names its partitions; in each of them the records of its
producer up to the producer's next mark are its own. So the nth mark of a producer in a partition ends the nth of the
producer's transactions that have this partition: which records and which positions became visible together is known,
without a reader that watches. (A broker that is killed may write a mark twice: this is for runs in which none is.)
"""

from __future__ import annotations

import json
import socket
import struct
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka.admin import AdminClient

from streamer import headers
from tests.faults.checker import Input
from tests.faults.segments import unsigned, varint

OFFSETS, STATE = "__consumer_offsets", "__transaction_state"
PREPARE_COMMIT, PREPARE_ABORT = 2, 3
FETCH_BYTES = 8 << 20
CONTROL, COMPRESSED = 0x20, 0x07
BATCH = struct.Struct(
    ">qiibIhiqqqhii"
)  # offset, length, epoch, magic, crc, attributes, last, times, producer, …, count
Place = tuple[str, int]
Headers = list[tuple[str, bytes | None]]


class Record(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: Headers


class Batch(NamedTuple):
    """One batch of a log: who wrote it, and its records or the one mark."""

    producer: int
    control: bool
    records: list[Record]


@dataclass
class Transaction:
    """One transaction of the group's producers: what it published, by partition of the source, and its positions."""

    producer: int
    committed: bool
    places: set[Place]
    published: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    positions: dict[int, int] = field(default_factory=dict)


def torn(transactions: Iterable[Transaction], inputs: Sequence[Input]) -> list[str]:
    """What is wrong with the committed ones. Each must hold exactly the outcomes between the position before and its
    own, in every partition of the source: no outcome without its position, no position without its outcomes."""
    due: dict[int, set[int]] = defaultdict(set)
    for given in inputs:
        if given.outcome != "skip":
            due[given.place[1]].add(given.place[2])
    committed = [one for one in transactions if one.committed]
    reached: dict[int, list[int]] = defaultdict(list)
    for one in committed:
        for partition, position in one.positions.items():
            reached[partition].append(position)
    found = []
    for number, one in enumerate(committed):
        for partition in sorted(one.published.keys() | one.positions.keys()):
            published = set(one.published.get(partition, ()))
            position = one.positions.get(partition)
            if position is None:
                found.append(f"transaction {number}: {len(published)} outcomes of partition {partition}, no position")
                continue
            before = max((p for p in reached[partition] if p < position), default=0)
            want = {offset for offset in range(before, position) if offset in due[partition]}
            if published != want:
                found.append(
                    f"transaction {number}: partition {partition} from {before} to {position}: "
                    f"{len(want - published)} outcomes are missing, {len(published - want)} are not of it"
                )
    return found


def read_transactions(bootstrap: str, group: str, targets: Sequence[str]) -> list[Transaction]:
    """All ended transactions of the group's producers, in the order of the coordinator's log."""
    logs = Logs(bootstrap)
    transactions = list(_ended(logs, group))
    for topic in (*targets, OFFSETS):
        for partition in range(logs.partitions(topic)):
            waiting: dict[int, deque[Transaction]] = defaultdict(deque)
            for one in transactions:
                if (topic, partition) in one.places:
                    waiting[one.producer].append(one)
            _fill(logs.read(topic, partition), waiting, group, topic)
    return transactions


def _ended(logs: Logs, group: str) -> Iterator[Transaction]:
    for partition in range(logs.partitions(STATE)):
        for batch in logs.read(STATE, partition):
            for key, value, _ in batch.records:
                if key is not None and value is not None and _text(key, 2)[0].startswith(f"{group}."):
                    producer, state, places = _state(value)
                    if state in (PREPARE_COMMIT, PREPARE_ABORT):
                        yield Transaction(producer, state == PREPARE_COMMIT, places)


def _fill(batches: Iterable[Batch], waiting: Mapping[int, deque[Transaction]], group: str, topic: str) -> None:
    """Give each transaction what it has in one partition."""
    kept: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for batch in batches:
        if batch.producer not in waiting:
            continue
        if not batch.control:
            read = (_position(record, group) if topic == OFFSETS else _source(record) for record in batch.records)
            kept[batch.producer] += [found for found in read if found]
            continue
        one = waiting[batch.producer].popleft()
        if one.committed != bool(struct.unpack_from(">hh", batch.records[0].key or b"")[1]):
            raise AssertionError(f"{topic}: a mark of producer {batch.producer} is not that of its transaction")
        for partition, offset in kept.pop(batch.producer, []):
            if topic == OFFSETS:
                one.positions[partition] = offset
            else:
                one.published[partition].append(offset)


def _source(record: Record) -> tuple[int, int]:
    """Which record of the source a prediction or a dead letter answers."""
    if headers.last(record.headers, headers.DLQ_TOPIC) is not None:
        source = headers.dead_letter(record.headers).source
        return source.partition, source.offset
    said = json.loads(record.value or b"")["source"]
    return said["partition"], said["offset"]


def _position(record: Record, group: str) -> tuple[int, int] | None:
    """Partition and offset, where a record of the offsets topic is a position of the group."""
    if record.key is None or record.value is None or struct.unpack_from(">h", record.key)[0] > 1:
        return None
    of, at = _text(record.key, 2)
    _, at = _text(record.key, at)
    partition: int = struct.unpack_from(">i", record.key, at)[0]
    return (partition, struct.unpack_from(">q", record.value, 2)[0]) if of == group else None


def _state(value: bytes) -> tuple[int, int, set[Place]]:
    """Producer id, state and partitions of a record of the coordinator's log; version 1 has compact strings."""
    version, producer, _, _, state = struct.unpack_from(">hqhib", value)
    at = 17
    places: set[Place] = set()
    count, at = _length(value, at, version)
    for _ in range(count):
        size, at = _length(value, at, version, short=2)
        topic, at = value[at : at + size].decode(), at + size
        numbers, at = _length(value, at, version)
        places |= {(topic, number) for number in struct.unpack_from(f">{numbers}i", value, at)}
        at += 4 * numbers + (1 if version else 0)  # and an empty list of tags
    return producer, state, places


def _length(value: bytes, at: int, version: int, short: int = 4) -> tuple[int, int]:
    if version == 0:
        return max(0, int.from_bytes(value[at : at + short], "big", signed=True)), at + short
    number, at = unsigned(value, at)
    return max(0, number - 1), at


def _text(value: bytes, at: int) -> tuple[str, int]:
    size = struct.unpack_from(">h", value, at)[0]
    return value[at + 2 : at + 2 + size].decode(), at + 2 + size


class Logs:
    """Partitions as the broker keeps them, marks and aborted records included: Fetch of version 4, by hand."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.partition(":")
        self._address = host, int(port)
        metadata = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=30)
        self._counts = {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def partitions(self, topic: str) -> int:
        """How many the topic has; none where there is no such topic."""
        return self._counts.get(topic, 0)

    def read(self, topic: str, partition: int) -> Iterator[Batch]:
        """Every batch, from the beginning to where the log ends now."""
        offset = 0
        with socket.create_connection(self._address, timeout=30) as line:
            while found := _fetch(line, topic, partition, offset):
                at = 0
                while at + BATCH.size <= len(found):
                    head = BATCH.unpack_from(found, at)
                    end = at + 12 + head[1]
                    if end > len(found):
                        break  # the rest comes with the next fetch
                    if head[0] + head[6] >= offset:
                        yield _batch(head, found[at + BATCH.size : end], f"{topic} {partition}")
                        offset = head[0] + head[6] + 1
                    at = end


def _fetch(line: socket.socket, topic: str, partition: int, offset: int) -> bytes:
    name = topic.encode()
    asked = struct.pack(">hhih", 1, 4, 1, -1) + struct.pack(">iiiib", -1, 0, 0, FETCH_BYTES, 0)
    asked += struct.pack(f">ih{len(name)}siiqi", 1, len(name), name, 1, partition, offset, FETCH_BYTES)
    line.sendall(struct.pack(">i", len(asked)) + asked)
    answer = _receive(line, struct.unpack(">i", _receive(line, 4))[0])
    at = 4 + 4 + 4 + 2 + len(name) + 4  # correlation, throttle, one topic, its name, one partition
    _, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
    if error:
        raise AssertionError(f"{topic} {partition} from {offset}: error {error} of the broker")
    return answer[at + 26 + 16 * max(0, aborted) + 4 :]


def _receive(line: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        more = line.recv(size - len(received))
        if not more:
            raise AssertionError("the broker has closed the connection")
        received += more
    return bytes(received)


def _batch(head: tuple[int, ...], body: bytes, where: str) -> Batch:
    attributes, producer, count = head[5], head[9], head[12]
    if attributes & COMPRESSED:
        raise AssertionError(f"{where}: a compressed batch, which this does not read; let producers not compress")
    records = []
    at = 0
    for _ in range(count):
        size, at = varint(body, at)
        records.append(_record(body, at))
        at += size
    return Batch(producer, bool(attributes & CONTROL), records)


def _record(body: bytes, at: int) -> Record:
    at += 1  # attributes
    for _ in range(2):  # how much later and further than the batch
        _, at = varint(body, at)
    key, at = _bytes(body, at)
    value, at = _bytes(body, at)
    count, at = varint(body, at)
    named: Headers = []
    for _ in range(count):
        name, at = _bytes(body, at)
        content, at = _bytes(body, at)
        named.append(((name or b"").decode(), content))
    return Record(key, value, named)


def _bytes(body: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = varint(body, at)
    return (None, at) if size < 0 else (body[at : at + size], at + size)
