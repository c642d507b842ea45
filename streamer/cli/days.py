"""`streamer days`: the days of entities that are over become events, each exactly once."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Annotated, Any

import msgspec
import structlog
import typer
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from prometheus_client import CollectorRegistry

from schemas import Event
from streamer.cli.common import ConfigFile, Sets, settings
from streamer.cli.run import WorkerName
from streamer.clock import SystemClock
from streamer.days import NEVER, Calendar, Days, Verdict, date_of, end_of, number_of
from streamer.errors import BadConfig, Reason, Temporary, Unreachable
from streamer.features.entities import days_group
from streamer.kafka import clients
from streamer.kafka.line import STUMBLES
from streamer.kafka.rights import ANSWER_S, forbidden, needs
from streamer.privacy import encryption
from streamer.records import Record
from streamer.settings import Settings
from streamer.settings.loading import client_config
from streamer.telemetry.health import Health, HealthServer
from streamer.telemetry.metrics import DayMetrics
from streamer.wire.reading import EventReader

log = structlog.get_logger(__name__)

CHUNK = 2_000
TRANSACTION_S = 30.0
TIMEOUT_MS = "60000"
"""Transaction timeout: a day with a great many entities must fit."""
IDLE_S = 30.0
"""A partition that was read to its end and has had no record for this long keeps no day open."""
LOOK_S = 2.0
TARGET_PARTITIONS_MAX = 250
"""The offsets of this many fit into the metadata of a committed offset (the broker's offset.metadata.max.bytes)."""
GO_ON = "set kafka.group_id to another name, to count from the start again, with --since after that day"
UNREADABLE = "unreadable"
"""Counted like a verdict: an event that the topic's own worker dead-letters."""

Since = Annotated[
    datetime | None,
    typer.Option("--since", formats=["%Y-%m-%d"], metavar="DATE", help="Count days before it, but do not send them."),
]


def days(worker: WorkerName, since: Since = None, sets: Sets = None, config: ConfigFile = None) -> None:
    """Send a worker an event of each entity for every day that is over, until SIGTERM or Ctrl-C.

    It reads all partitions of the topic that the worker's days are made of. A day is over when every partition has
    come an hour past its end, by the events' own times (UTC). One transaction holds the day's events and the note that
    it was sent: each day is sent once, whatever happens. Run one process: a second one takes over from the first.

    Example: streamer days sales-forecast --since 2026-01-01
    """
    chosen = settings(config, sets)
    from streamer import discovery
    from streamer.telemetry import log as logs

    logs.configure(chosen.log.level, chosen.log.format)
    found = discovery.find(worker)()
    if found.days is None:
        raise BadConfig(f"{found.name} declares no days; give its class `days = Days(...)`, or leave this process out")
    health, metrics = Health(), DayMetrics(found.name, CollectorRegistry())
    server = HealthServer(chosen.http.host, chosen.http.port, health, metrics.text)
    server.start()
    first = None if since is None else number_of(since.date())
    session = _Session(chosen, days_group(chosen.kafka.group(found.name)), found.days, found.source, first, metrics)
    try:
        stopping = _stop_on_signals()
        health.warm()
        health.assigned()
        log.info("days begin", told=session.told(), http_port=server.port)
        session.run(stopping, health)
    finally:
        session.close()
        server.close()
    log.info("stopped", told=session.told())


class _Note(msgspec.Struct):
    """The metadata of the committed offsets: the last day that was emitted, the offset in each partition of the target
    where its events begin (None without events), and the number of its events."""

    told: int = NEVER
    at: list[int | None] = []
    events: int = 0


class _Session:
    """One process that reads, and tells."""

    def __init__(
        self, chosen: Settings, name: str, days: Days, target: str, since: int | None, metrics: DayMetrics
    ) -> None:
        self._settings = chosen
        self._name = name
        self._days = days
        self._target = target
        self._since = since
        self._metrics = metrics
        keys = encryption.cipher(chosen.encryption.keys_file, days.event, days.event.topic)
        self._reader = EventReader(days.event, chosen.limits.record_bytes_max, keys)
        self._ended: dict[int, tuple[float, int]] = {}
        self._looked_at = 0.0
        self._late = 0
        self._idle: set[int] = set()
        self._sent_at: dict[int, int] = {}
        self._failed: list[KafkaError] = []
        self._consumer = clients.consumer(chosen, name)
        # It sees the records of open transactions, which are hidden from the other consumer.
        self._ends = clients.consumer(chosen, name, isolation_level="read_uncommitted")
        needed = (
            *(needs("READ", "topic", topic) for topic in (days.event.topic, target)),
            needs("READ", "group", name),
            needs("WRITE", "transactional id", name),
        )
        with clients.explained(self._consumer, chosen, *needed):
            self._partitions = clients.partitions(self._consumer, chosen, days.event.topic, "READ")
            clients.permitted(chosen, target, "READ", "WRITE")
            self._target_count = len(clients.partitions(self._consumer, chosen, target, "WRITE"))
            if self._target_count > TARGET_PARTITIONS_MAX:
                raise BadConfig(f"{target} has {self._target_count} partitions; {TARGET_PARTITIONS_MAX} is the maximum")
            # First of all: it ends a predecessor's open transaction, and fences the predecessor.
            self._producer = clients.producer(chosen, transactional_id=name, transaction_timeout_ms=TIMEOUT_MS)
            self._producer.init_transactions(TRANSACTION_S)
            self._calendar, self._position = self._resumed()
            self._consumer.assign([self._at(p, offset) for p, offset in self._position.items()])

    def told(self) -> str | None:
        """The last day that has been told, for people."""
        return None if self._calendar.told == NEVER else str(date_of(self._calendar.told))

    def close(self) -> None:
        self._consumer.close()
        self._ends.close()

    def run(self, stopping: threading.Event, health: Health) -> None:
        """Read and emit until `stopping` is set.

        Raises:
            Exit: it cannot go on. The next process reads again what was not emitted.
        """
        while not stopping.is_set():
            health.beat()
            self._take(self._consumer.consume(CHUNK, 0.5))
            if time.monotonic() - self._looked_at >= LOOK_S:
                self._look()
            for day in self._calendar.over(self._idle):
                if self._since is None or day >= self._since:
                    self._tell(day, health)
                self._calendar.close(day)
                health.beat()
                if stopping.is_set():
                    return

    def _resumed(self) -> tuple[Calendar, dict[int, int]]:
        """The state and offsets of a predecessor; without one, the beginning."""
        noted = clients.committed(self._consumer, self._days.event.topic, self._partitions, TRANSACTION_S)
        there = [tp for tp in noted if tp.offset >= 0]
        if wrong := [tp.partition for tp in there if not tp.metadata]:
            raise BadConfig(
                f"group {self._name} has positions that streamer days has not written (partition {wrong[0]}), so the "
                "days that were sent are not known. Set kafka.group_id to another name, with --since after the last one"
            )
        notes = [msgspec.json.decode(tp.metadata or "", type=_Note) for tp in there]
        last = max(notes, key=lambda note: note.told, default=_Note())
        if not notes and self._since is None and any(high > low for low, high in self._target_marks()):
            raise BadConfig(
                f"{self._target} has days already, but group {self._name} has no offsets; a broker deletes them after "
                "a week without commits. Name the first day to send with --since"
            )
        calendar = Calendar(self._days, self._partitions, SystemClock(), last.told)
        restored = 0
        for event in self._told_last({p: offset for p, offset in enumerate(last.at) if offset is not None}):
            calendar.restore(event)
            restored += 1
        if restored != last.events:
            raise Unreachable(
                f"{self._target} should have {last.events} events of {date_of(last.told)}, and has {restored}: {GO_ON}"
            )
        return calendar, {tp.partition: tp.offset if tp.offset >= 0 else OFFSET_BEGINNING for tp in noted}

    def _target_marks(self) -> list[tuple[int, int]]:
        places = [TopicPartition(self._target, partition) for partition in range(self._target_count)]
        return [self._consumer.get_watermark_offsets(place, clients.TIMEOUT_S) for place in places]

    def _told_last(self, at: dict[int, int]) -> Iterator[Event]:
        """The events of the last day that was emitted, from their first offsets."""
        model = type(self._days.told("example", date_of(0), [0] * self._days.history))
        left = set(at)
        for partition, offset in at.items():
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(self._target, partition), clients.TIMEOUT_S)
            if offset < low:
                raise Unreachable(
                    f"{self._target}/{partition} has lost the last day, which this process needs to go on: {GO_ON}"
                )
        self._consumer.assign([TopicPartition(self._target, partition, offset) for partition, offset in at.items()])
        heard = time.monotonic()
        while left:
            for message in self._consumer.consume(CHUNK, 0.5):
                heard = time.monotonic()
                error: Any = message.error()
                if error is None:
                    yield model.model_validate_json(message.value() or b"")
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)
            if time.monotonic() - heard > TRANSACTION_S:
                raise Unreachable(f"the broker stopped sending the records of {self._target}; start it again")

    def _take(self, messages: Iterable[Any]) -> None:
        counts: Counter[str] = Counter()
        records = []
        for message in messages:
            if message.error() is None:
                self._ended.pop(message.partition(), None)
                records.append(_record(message))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                self._ended[message.partition()] = time.monotonic(), message.offset()
            elif message.error().fatal() or not message.error().retriable():
                raise Unreachable(f"cannot read {self._days.event.topic}: {message.error().str()}")
        for record, event, rejected in self._reader.read(records):
            if rejected is not None and rejected.reason is Reason.NOT_DECRYPTED:
                raise BadConfig(
                    f"{self._days.event.topic} is encrypted with a key that is not known here: its events would not "
                    "be counted"
                )
            counts[UNREADABLE if rejected is not None else self._verdict(record, event)] += 1
            self._position[record.partition] = record.offset + 1
        self._metrics.records(counts)
        self._late += counts[Verdict.LATE]

    def _verdict(self, record: Record, event: Event) -> str:
        try:
            return self._calendar.take(record, event)
        except Exception as error:  # the worker's own code failed; the text may quote the event
            log.warning("the days failed on an event", error=type(error).__name__, offset=record.offset)
            return UNREADABLE

    def _look(self) -> None:
        """Find the idle partitions: at their end for a while, and still. If the broker does not answer, none is."""
        topic, now = self._days.event.topic, time.monotonic()
        candidates = {partition: end for partition, (since, end) in self._ended.items() if now - since >= IDLE_S}
        try:
            count = len(self._ends.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions)
            if count > len(self._partitions):
                raise Temporary(f"{topic} has {count} partitions now; start it again, it reads them all")
            marks = {p: self._ends.get_watermark_offsets(TopicPartition(topic, p), ANSWER_S) for p in candidates}
        except KafkaException:
            marks = {}
        self._idle = {partition for partition, (_, high) in marks.items() if high == candidates[partition]}
        self._looked_at = time.monotonic()
        if self._late:
            log.info("records of days that are closed: too late, or counted before a restart", records=self._late)
            self._late = 0

    def _tell(self, day: int, health: Health) -> None:
        """One transaction: the day's events, and the offsets to go on from. A day without events leaves no note: it is
        just as empty when it is read again."""
        self._sent_at, self._failed, events = {}, [], 0
        told = self._calendar.tell(day)
        if (first := next(told, None)) is None:
            return
        try:
            self._producer.begin_transaction()
            for event in chain([first], told):
                self._send(event)
                events += 1
                if events % CHUNK == 0:
                    health.beat()
            if self._producer.flush(TRANSACTION_S) or self._failed:
                raise KafkaException(self._failed[0] if self._failed else KafkaError(KafkaError._TIMED_OUT))
            note = self._note(day, events)
            after = self._calendar.after(day, self._position)
            offsets = [self._at(partition, offset, note) for partition, offset in after.items() if offset >= 0]
            self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), TRANSACTION_S)
            self._producer.commit_transaction(TRANSACTION_S)
        except (KafkaException, *STUMBLES) as error:
            # Sent or not, the next process finds out: it ends this transaction, then reads what is committed.
            why = self._given_up(error)
        else:
            self._metrics.told(end_of(date_of(day)).timestamp(), events)
            log.info("a day is over", day=str(date_of(day)), events=events)
            return
        if missing := forbidden(client_config(self._settings), [self._target], TRANSACTION_S):
            raise Unreachable(f"{date_of(day)} was not sent: {missing}")
        raise Temporary(f"{date_of(day)} was not sent, or not for sure: {why}; start it again")

    def _note(self, day: int, events: int) -> str:
        at = [self._sent_at.get(partition) for partition in range(self._target_count)]
        return msgspec.json.encode(_Note(day, at, events)).decode()

    def _given_up(self, error: Exception) -> str:
        """Abort, so that no reader waits for this transaction. Returns why it failed."""
        try:
            self._producer.abort_transaction(TRANSACTION_S)
        except KafkaException as said:
            error = said
        failure = error.args[0]
        if isinstance(failure, KafkaError) and failure.code() in clients.FENCED:
            return "another process emits these days now"
        return failure.str() if isinstance(failure, KafkaError) else str(failure)

    def _send(self, event: Event) -> None:
        value, key = event.model_dump_json().encode(), event.key.encode()
        while True:
            try:
                return self._producer.produce(self._target, value, key, on_delivery=self._delivered)
            except BufferError:  # the queue is full: let it drain
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append(error)
        else:
            partition, offset = message.partition(), message.offset()
            self._sent_at[partition] = min(offset, self._sent_at.get(partition, offset))

    def _at(self, partition: int, offset: int, note: str = "") -> TopicPartition:
        return TopicPartition(self._days.event.topic, partition, offset, note)


def _record(message: Any) -> Record:
    at_ms = message.timestamp()[1]
    return Record(message.topic(), message.partition(), message.offset(), message.key(), message.value(), None, at_ms)


def _stop_on_signals() -> threading.Event:
    """Set on the first SIGTERM or Ctrl-C; a second one ends the process at once."""
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping
