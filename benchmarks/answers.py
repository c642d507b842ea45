"""What came out of a run, read as a careful reader does, and whether it is exactly what went in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas import dead_letters
from streamer.wire import headers
from tests.services import ServiceError, end_offsets, unique

STALL_S = 60.0
PLACED_S = 15.0

Place = tuple[int, int]
"""Partition and offset of an event in its source topic."""
Offsets = Mapping[int, int]
"""Partition to offset."""


class Answer(NamedTuple):
    """One outcome: of which event, when it was published, and what it says (None: a dead letter)."""

    place: Place
    event_id: str
    time_ms: int
    content: msgspec.Raw | None


class Tally(NamedTuple):
    """What became of the events of one run."""

    sent: int
    predicted: int
    dead: int
    lost: int
    duplicated: int
    foreign: int
    unordered: int

    @property
    def exact(self) -> bool:
        """Whether every event was predicted once, in order, and nothing else was."""
        return self.predicted == self.sent and not any(self[2:])


class _Source(msgspec.Struct):
    partition: int
    offset: int


class _Envelope(msgspec.Struct):
    event_id: str
    source: _Source
    answer: msgspec.Raw


_decode = msgspec.json.Decoder(_Envelope).decode


def tally(sent: Collection[Place], answers: Iterable[Answer]) -> Tally:
    """Compare what came out with what went in."""
    known = set(sent)
    seen: Counter[Place] = Counter()
    latest: dict[int, int] = {}
    dead = foreign = unordered = 0
    for answer in answers:
        if answer.place not in known:
            foreign += 1
            continue
        seen[answer.place] += 1
        if answer.content is None:
            dead += 1
            continue  # on a topic of its own: no order between the two
        partition, offset = answer.place
        unordered += offset < latest.get(partition, -1)
        latest[partition] = offset
    return Tally(
        sent=len(known),
        predicted=seen.total() - dead,
        dead=dead,
        lost=len(known) - len(seen),
        duplicated=seen.total() - len(seen),
        foreign=foreign,
        unordered=unordered,
    )


def places(start: Offsets, end: Offsets) -> list[Place]:
    """Every event between two moments of a source topic that only this run writes to."""
    return [(partition, offset) for partition in end for offset in range(start[partition], end[partition])]


class Reader:
    """Reads committed records of topics from given offsets on; what becomes of them, a subclass says in `take`."""

    def __init__(self, bootstrap: str, starts: Mapping[str, Offsets]) -> None:
        self._bootstrap = bootstrap
        self._starts = starts
        self._reached = {
            (topic, partition): offset for topic, offsets in starts.items() for partition, offset in offsets.items()
        }
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": unique("outputs"),
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",  # a reader that jumps would hide a loss
                "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 5,
            }
        )

    def take(self, messages: Sequence[Any]) -> None:
        """Keep what these records say."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to fetch: until then a run is not disturbed."""
        self._consumer.assign([TopicPartition(*at, offset) for at, offset in self._reached.items()])

    def grown(self, topic: str) -> int:
        """By how much a topic has grown, up to an open transaction; the end of a transaction takes a place too."""
        return sum(
            self._consumer.get_watermark_offsets(TopicPartition(topic, partition), 15, cached=False)[1] - start
            for partition, start in self._starts[topic].items()
        )

    def read(self, timeout_s: float) -> int:
        """Take what has come meanwhile, and say how many; waits at most `timeout_s` for the first."""
        messages: list[Any] = self._consumer.consume(1, timeout_s)
        if messages:
            messages += self._consumer.consume(10_000, 0)
        found = [message for message in messages if message.error() is None]
        for message in messages if len(found) < len(messages) else ():
            if (error := message.error()) is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                self._reached[message.topic(), message.partition()] = message.offset()
            elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
                raise KafkaException(error)
        self.take(found)
        return len(found)

    def read_to_end(self) -> None:
        """Read what else there is; call it when the worker has ended.

        Raises:
            ServiceError: a transaction stays open.
        """
        ends = {
            (topic, partition): offset
            for topic in self._starts
            for partition, offset in end_offsets(self._bootstrap, topic).items()
        }
        give_up = time.monotonic() + STALL_S
        while any(self._reached[at] < end for at, end in ends.items()):
            if self.read(0.2):
                give_up = time.monotonic() + STALL_S
            elif time.monotonic() > give_up:
                raise ServiceError(f"{', '.join(self._starts)} cannot be read to the end: a transaction is open")

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


class Outputs(Reader):
    """The predictions and dead letters of one worker from now on."""

    def __init__(self, bootstrap: str, source: str, target: str) -> None:
        super().__init__(bootstrap, {topic: end_offsets(bootstrap, topic) for topic in (target, dead_letters(source))})
        self.answers: list[Answer] = []
        self.start()

    def take(self, messages: Sequence[Any]) -> None:
        """Keep the answers."""
        self.answers += map(_answer, messages)

    def read_until(self, count: int, progress: Callable[[int], object], check: Callable[[], object]) -> None:
        """Read until `count` outcomes are there; `check` may end it.

        Raises:
            ServiceError: nothing has come for a minute.
        """
        moved = time.monotonic()
        while len(self.answers) < count:
            if found := self.read(0.2):
                progress(found)
                moved = time.monotonic()
            elif time.monotonic() - moved > STALL_S:
                raise ServiceError(
                    f"{len(self.answers)} of {count} outcomes, and no further one in {STALL_S:.0f} s: the worker hangs"
                )
            check()

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)


def place_group(bootstrap: str, group: str, topic: str, offsets: Offsets) -> None:
    """Let a group begin at these offsets: what earlier runs left on the topic is not its work.

    Raises:
        ServiceError: the broker refuses; a broker that has just started does so for a moment.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})
    give_up = time.monotonic() + PLACED_S
    while True:
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, *at) for at in offsets.items()])
        placed = admin.alter_consumer_group_offsets([wanted])[group].result(PLACED_S).topic_partitions
        if not (refused := [partition.error for partition in placed if partition.error]):
            return
        if time.monotonic() > give_up:
            raise ServiceError(f"group {group} cannot be placed on {topic}: {refused[0]}")
        time.sleep(0.1)


def window_rate(times_ms: Sequence[int]) -> float:
    """Events a second between the first and the last tenth of a run, so that neither its start nor its end counts."""
    ordered = sorted(times_ms)
    first, last = len(ordered) // 10, len(ordered) * 9 // 10
    if last <= first or ordered[last] == ordered[first]:
        return 0.0
    return (last - first) / (ordered[last] - ordered[first]) * 1000


def _answer(message: Any) -> Answer:
    time_ms = message.timestamp()[1]
    said = message.headers() or []
    if headers.last(said, headers.REASON) is not None:
        source = headers.dead_letter(said).source
        return Answer((source.partition, source.offset), "", time_ms, None)
    envelope = _decode(message.value())
    return Answer((envelope.source.partition, envelope.source.offset), envelope.event_id, time_ms, envelope.answer)
