"""`streamer replay`: dead letters go back to the topic they came from, each exactly once."""

from __future__ import annotations

import base64
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import typer
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from pydantic import ValidationError

from schemas import DeadLetter
from streamer.cli.common import ConfigFile, DryRun, Limit, Sets, print_rows, settings
from streamer.errors import Unreachable, Usage
from streamer.kafka import clients
from streamer.kafka.rights import forbidden, needs
from streamer.settings import Settings
from streamer.settings.loading import client_config
from streamer.telemetry.progress import progress
from streamer.wire import headers

CHUNK = 500
"""Dead letters in one transaction."""
TRANSACTION_S = 30.0
REPLAYED = "replayed"
METADATA_BYTES_MAX = 4000
"""A little below the largest metadata of a committed offset (the broker's offset.metadata.max.bytes)."""
FIELDS = ("reason", "worker", "error", "group", "partition", "offset", "attempts")

Dlq = Annotated[str, typer.Option("--dlq", metavar="TOPIC", help="The topic of dead letters, dlq.….")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="FIELD=VALUE", help=f"Conditions that must all hold. Fields: {', '.join(FIELDS)}."),
]
AttemptsMax = Annotated[
    int, typer.Option("--attempts-max", min=1, metavar="N", help="Leave letters with more attempts than this.")
]


class Back(NamedTuple):
    """A record as it returns to its source topic."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Progressed:
    """What has been replayed of one partition: everything before `position`, and `done` beyond it.

    A filter leaves gaps, and a later replay must find what was left and not repeat what was sent. So the metadata of
    the committed offset holds the offsets sent beyond the first gap, as a packed bit set.
    """

    def __init__(self, position: int, metadata: str = "") -> None:
        self.position = position
        self.done: set[int] = set()
        if metadata:
            bits = int.from_bytes(zlib.decompress(base64.b85decode(metadata)), "little")
            self.done = {position + at for at in range(bits.bit_length()) if bits >> at & 1}
        self._gap = False

    def pass_over(self, offset: int) -> None:
        """The record at this offset is left where it is."""
        self._gap = True

    def take(self, offset: int) -> None:
        """The record at this offset has been sent."""
        self.done.add(offset)
        self.settle(offset)

    def settle(self, offset: int) -> None:
        """Move on past this offset, which is sent, if nothing before it was left."""
        if not self._gap:
            self.position = offset + 1
            self.done.discard(offset)

    def metadata(self) -> str:
        """What to commit beside `position`."""
        bits = sum(1 << (at - self.position) for at in self.done if at >= self.position)
        if not bits:
            return ""
        return base64.b85encode(zlib.compress(bits.to_bytes(bits.bit_length() // 8 + 1, "little"), 9)).decode()


def replay(
    dlq: Dlq,
    where: Where = None,
    attempts_max: AttemptsMax = 3,
    limit: Limit = None,
    dry_run: DryRun = False,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Send dead letters back to their source topic. What was sent is never sent again, whatever the filter.

    A record that fails again becomes a new dead letter, with one attempt more.

    Key, value and headers are those of the original record. One transaction holds the records and the note that they
    were sent, so an interrupted replay can simply be started again.

    Example: streamer replay --dlq dlq.crm.leads.events.v1 --where reason=model-error --dry-run
    """
    chosen = settings(config, sets)
    wanted = conditions(where or ())
    session = _Session(chosen, dlq, send=not dry_run)
    try:
        counts = session.replay(wanted, attempts_max, limit)
    finally:
        session.close()
    names = {REPLAYED: "would replay"} if dry_run else {}
    print_rows(
        [{"what": names.get(what, what), "reason": reason, "count": n} for (what, reason), n in sorted(counts.items())]
    )
    sent = sum(count for (what, _), count in counts.items() if what == REPLAYED)
    print(f"{'would send' if dry_run else 'sent'} {sent} of {sum(counts.values())} dead letters")


def conditions(where: Sequence[str]) -> dict[str, str]:
    """The `--where` options. Raises `Usage` for an unknown field."""
    wanted = {}
    for text in where:
        field, _, value = text.partition("=")
        if field not in FIELDS or not value:
            raise Usage(f"--where {text}: write field=value, with a field of {', '.join(FIELDS)}")
        wanted[field] = value
    return wanted


def matches(dead: DeadLetter, wanted: dict[str, str]) -> bool:
    """Whether all conditions hold."""
    said = {**dead.model_dump(), **dead.source.model_dump()}
    return all(str(said[field]) == value for field, value in wanted.items())


def back(message: Any, dead: DeadLetter) -> Back:
    """The original record, with headers for a second failure: how often it failed, and where it began."""
    source = dead.source
    kept = [(name, value) for name, value in message.headers() if name not in headers.ERRORS]
    kept.append((headers.ATTEMPTS, str(dead.attempts).encode()))
    if headers.last(kept, headers.SOURCE) is None:
        kept.append((headers.SOURCE, f"{source.topic}/{source.partition}/{source.offset}".encode()))
    return Back(source.topic, source.partition, message.key(), message.value(), kept)


def parked(message: Any, dead: DeadLetter, attempts_max: int) -> str | None:
    """Why a wanted dead letter stays where it is; None when it is sent."""
    if dead.attempts > attempts_max:
        return f"parked: more than {attempts_max} attempts"
    if headers.last(message.headers(), headers.VALUE_SHA256) is not None:
        return "parked: too large, its value is only in the source topic"
    return None


class _Session:
    """One run over one topic of dead letters."""

    def __init__(self, chosen: Settings, dlq: str, *, send: bool) -> None:
        name = f"streamer-replay-{dlq}"
        self._settings = chosen
        self._dlq = dlq
        self._consumer = clients.consumer(chosen, name)
        self._producer: Any = None
        needed = needs("READ", "topic", dlq), needs("READ", "group", name), needs("WRITE", "transactional id", name)
        with clients.explained(self._consumer, chosen, *needed):
            known = clients.partitions(self._consumer, chosen, dlq, "READ")
            if send:
                # First of all: it ends the open transaction of an interrupted run, so the committed offsets are final.
                self._producer = clients.producer(
                    chosen, transactional_id=name, transaction_timeout_ms="60000", message_max_bytes="8388608"
                )
                self._producer.init_transactions(TRANSACTION_S)
            committed = clients.committed(self._consumer, dlq, known)
            self._ends = {p: self._watermarks(p)[1] for p in known}
            self._progressed = {
                tp.partition: Progressed(tp.offset, tp.metadata or "")
                if tp.offset >= 0
                else Progressed(self._watermarks(tp.partition)[0])
                for tp in committed
            }

    def close(self) -> None:
        self._consumer.close()

    def replay(self, wanted: dict[str, str], attempts_max: int, limit: int | None) -> Counter[tuple[str, str]]:
        """Read up to the end as of the start, with a transaction for each chunk. Counts the outcomes by reason."""
        counts: Counter[tuple[str, str]] = Counter()
        chunk: list[Back] = []
        left = limit
        may_read = needs("READ", "topic", self._dlq)
        with clients.explained(self._consumer, self._settings, may_read), progress() as bar:
            task = bar.add_task("replaying", total=limit)
            for message in self._messages():
                at = self._progressed[message.partition()]
                if message.offset() in at.done:
                    at.settle(message.offset())
                    continue
                what, reason, record = self._judge(message, wanted, attempts_max)
                if record is None or left == 0:
                    at.pass_over(message.offset())
                    counts[("left: over the limit" if record else what, reason)] += 1
                    continue
                at.take(message.offset())
                chunk.append(record)
                counts[what, reason] += 1
                left = None if left is None else left - 1
                bar.advance(task)
                if len(chunk) == CHUNK:
                    self._send(chunk)
                    chunk = []
            self._send(chunk)
        return counts

    def _judge(self, message: Any, wanted: dict[str, str], attempts_max: int) -> tuple[str, str, Back | None]:
        try:
            dead = headers.dead_letter(message.headers())
        except (ValidationError, ValueError):
            return "left: its headers are no dead letter's", "", None
        if not matches(dead, wanted):
            return "left: not wanted", dead.reason, None
        if why := parked(message, dead, attempts_max):
            return why, dead.reason, None
        return REPLAYED, dead.reason, back(message, dead)

    def _messages(self) -> Iterator[Any]:
        starts = {p: at.position for p, at in self._progressed.items() if at.position < self._ends[p]}
        self._consumer.assign([TopicPartition(self._dlq, p, start) for p, start in starts.items()])
        reading = set(starts)
        heard = time.monotonic()
        while reading:
            messages: list[Any] = self._consumer.consume(CHUNK, 0.2)
            if messages:
                heard = time.monotonic()
            for message in messages:
                partition = message.partition()
                if message.error() is None and message.offset() < self._ends[partition]:
                    yield message
                elif message.error() is None or message.error().code() == KafkaError._PARTITION_EOF:
                    reading.discard(partition)
                else:
                    raise KafkaException(message.error())
            if time.monotonic() - heard > TRANSACTION_S:
                raise Unreachable("the broker no longer answers; start the replay again, it goes on where it was")

    def _send(self, chunk: Iterable[Back]) -> None:
        """One transaction: the records, and the note that they were sent."""
        records = list(chunk)
        if self._producer is None or not records:
            return
        notes = [TopicPartition(self._dlq, p, at.position, at.metadata()) for p, at in self._progressed.items()]
        if any(len(note.metadata or "") > METADATA_BYTES_MAX for note in notes):
            raise Usage(
                "--where leaves more dead letters between the replayed ones than the group's metadata can hold; "
                "replay without --where, or the first part of them with --limit"
            )
        try:
            self._producer.begin_transaction()
            for record in records:
                self._producer.produce(record.topic, record.value, record.key, record.partition, headers=record.headers)
            group = self._consumer.consumer_group_metadata()
            self._producer.send_offsets_to_transaction(notes, group, TRANSACTION_S)
            self._producer.commit_transaction(TRANSACTION_S)
        except KafkaException as error:
            # Sent or not, the next run finds out: it first ends this transaction, then reads what is committed.
            # It is aborted here already, if that works, because readers of the source topic wait for its end.
            with suppress(KafkaException):
                self._producer.abort_transaction(TRANSACTION_S)
            # The error names neither the topic nor the right.
            why = forbidden(client_config(self._settings), sorted({record.topic for record in records}), TRANSACTION_S)
            if not why and error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                why = needs("READ", "group", f"streamer-replay-{self._dlq}")
            raise Unreachable(
                f"replay was interrupted: {'; '.join(part for part in (error.args[0].str(), why) if part)}; "
                "start it again, it goes on where it was"
            ) from error

    def _watermarks(self, partition: int) -> tuple[int, int]:
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._dlq, partition), timeout=clients.TIMEOUT_S
        )
        return low, high
