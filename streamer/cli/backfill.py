"""`streamer backfill`: a worker answers a range of a topic once more, and then ends."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
import typer
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition

from schemas import dead_letters
from streamer.cli import topics
from streamer.cli.common import ConfigFile, Sets, settings
from streamer.cli.run import WorkerName
from streamer.errors import Temporary, Unreachable, Usage
from streamer.kafka import clients
from streamer.kafka.rights import needs
from streamer.records import Positions
from streamer.settings import Settings
from streamer.telemetry.progress import progress

log = structlog.get_logger(__name__)

START = "start"
LOOK_S = 1.0
STILL_S = 3.0
"""When an offset has not moved for this long, perhaps only marks of transactions follow it."""
TRIES = 5
TRANSACTION_S = 30.0

Topic = Annotated[
    str | None, typer.Option("--topic", metavar="T", help="What to read; default: the worker's own source.")
]
From = Annotated[
    str,
    typer.Option("--from", metavar="TIME", help="The first record, by when it was written: 2026-01-31, or start."),
]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="The first record that is not answered; a past time.")]
Target = Annotated[
    str | None, typer.Option("--target", metavar="T", help="Where predictions go; default: <target>.backfill.")
]


def backfill(
    worker: WorkerName,
    start: From,
    end: To,
    topic: Topic = None,
    target: Target = None,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Answer a range of a topic, exactly once, in a group of its own, and end.

    A time without a zone is UTC. After any interruption the same command goes on where it was, up to a week after its
    last commit (the broker's offsets.retention.minutes); later it begins again. Started on several machines, with the
    same words, it shares the partitions; all of them end when the range is done. Dead letters go where they always go.
    Features are the present ones; `streamer features backfill` makes the past ones.

    Example: streamer backfill lead-scoring --from 2026-01-01 --to 2026-02-01
    """
    began, ended = time_ms(start), time_ms(end)
    if ended is None or ended > time.time() * 1000:
        raise Usage(f"--to {end}: name a time in the past, so that all replicas see the same range")
    if began is not None and began >= ended:
        raise Usage(f"--from {start} is not before --to {end}")
    chosen = settings(config, sets)
    from streamer import app, discovery
    from streamer.telemetry import log as logs

    found = discovery.find(worker)
    source, target = topic or found.source, target or f"{found.target}.backfill"
    if target in (found.target, source):
        raise Usage(
            f"--target {target}: its readers would find answers twice, or answers for events; name another topic"
        )
    if found.windows and source != found.source:
        raise Usage(f"{found.name} reads windows, which are those of {found.source}; leave --topic out")
    asked = hashlib.blake2b(f"{source} {start} {end} {target}".encode(), digest_size=4).hexdigest()
    group = f"{chosen.kafka.group(found.name)}.backfill.{asked}"
    port = {} if "port" in chosen.http.model_fields_set else {"port": 0}  # a worker beside it uses the configured one
    own = {"kafka": chosen.kafka.model_copy(update={"group_id": group}), "http": chosen.http.model_copy(update=port)}
    chosen = chosen.model_copy(update=own)
    logs.configure(chosen.log.level, chosen.log.format)
    span = _Span(chosen, source, began, ended)
    if span.empty():
        print(f"no record of {source} was written from {start} to {end} (that is its timestamp, not when it happened)")
        return
    span.begin()
    span.topics([target, dead_letters(source)])
    if not span.done():
        again = type(found.__name__, (found,), {"source": source, "target": target})
        app.run(chosen, again(), span)
    if not span.done():
        raise Temporary(f"not done: {span.said()}; start it again, it goes on where it was")
    print(f"done: {span.said()}, to {target}")


def time_ms(text: str) -> int | None:
    """A time in milliseconds since 1970; None for `start`.

    Raises:
        Usage: it is neither.
    """
    if text == START:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Usage(f"{text}: write a time such as 2026-01-31 or 2026-01-31T12:00+01:00, or {START}") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


class Fenced(Exception):
    """A later process does the same, and fences this one."""


class _Span:
    """The range, and how far its group is."""

    def __init__(self, chosen: Settings, topic: str, began: int | None, ended: int) -> None:
        self._settings = chosen
        self._topic = topic
        self._lock = threading.Lock()
        self._group = str(chosen.kafka.group_id)
        self._consumer = clients.consumer(chosen, self._group)
        self._needed = needs("READ", "topic", topic), needs("READ", "group", self._group)
        with clients.explained(self._consumer, chosen, *self._needed):
            self._partitions = clients.partitions(self._consumer, chosen, topic, "READ")
            starts = self._lows() if began is None else self._offsets(began)
            self.starts, self.ends = starts, self._offsets(ended)
        self._moved: dict[int, tuple[int, float]] = {}
        self._patience: dict[int, float] = {}
        self._finished: set[int] = {p for p, end in self.ends.items() if end <= starts[p]}
        self._positions = dict(starts)

    def begin(self) -> None:
        """Put the group where the range begins, unless it has begun: of replicas that start together, one does it."""
        needed = *self._needed, needs("WRITE", "transactional id", f"{self._group}.start")
        with clients.explained(self._consumer, self._settings, *needed):
            for _ in range(TRIES):
                if self._begun():
                    return
                with suppress(Fenced):
                    self._put_at_start()
        raise Temporary(f"other replicas keep beginning {self._group} at the same time; start it again")

    def _begun(self) -> bool:
        return any(tp.offset >= 0 for tp in self._committed())

    def _committed(self) -> list[TopicPartition]:
        # A killed replica may have left a transaction open, which ends by its timeout, or when its slot is taken.
        return clients.committed(self._consumer, self._topic, self._partitions, TRANSACTION_S)

    def _put_at_start(self) -> None:
        """Commit all offsets or none. Its transactional id fences a replica that began the same a moment before."""
        producer = clients.producer(self._settings, transactional_id=f"{self._group}.start")
        places = [TopicPartition(self._topic, p, offset) for p, offset in self.starts.items()]
        try:
            producer.init_transactions(TRANSACTION_S)
            if self._begun():
                return
            producer.begin_transaction()
            producer.send_offsets_to_transaction(places, self._consumer.consumer_group_metadata(), TRANSACTION_S)
            producer.commit_transaction(TRANSACTION_S)
        except KafkaException as error:
            if error.args[0].code() in clients.FENCED:
                raise Fenced from error
            raise

    def topics(self, names: list[str]) -> None:
        """Make the missing topics, with as many partitions as the source has."""
        client = clients.admin(self._settings)
        there = clients.counts(client, self._settings, names, "WRITE")
        missing = [name for name, count in there.items() if count is None]
        topics.create(client, self._settings, {name: len(self._partitions) for name in missing}, None)

    def done(self) -> bool:
        """Whether every record of the range is answered, by any replica."""
        with self._lock, clients.explained(self._consumer, self._settings, *self._needed):
            self._look()
        return len(self._finished) == len(self._partitions)

    def empty(self) -> bool:
        """Whether there is nothing to answer."""
        return self._total() == 0

    def said(self) -> str:
        """How far it is, for people."""
        return f"{self._answered():,} of {self._total():,} offsets of {self._topic}"

    def watch(self, stop: Callable[[], None]) -> None:
        """Show how far the group is, and stop the worker when the range is done."""
        try:
            with progress() as bar:
                task = bar.add_task("answering", total=self._total())
                while not self._surely_done():
                    bar.update(task, completed=self._answered())
                    time.sleep(LOOK_S)
                bar.update(task, completed=self._total())
        finally:
            stop()  # whatever happens: `done` tells the caller how far it is

    def _surely_done(self) -> bool:
        try:
            return self.done()
        except Unreachable as error:  # the broker is away: the worker waits for it, and so do we
            log.warning("progress of the range is not known now", error=str(error))
            return False

    def _look(self) -> None:
        now = time.monotonic()
        for tp in self._committed():
            partition, position = tp.partition, max(tp.offset, self.starts[tp.partition])
            if self._positions[partition] != position or partition not in self._moved:
                self._moved[partition] = position, now
            self._positions[partition] = position
            if position >= self.ends[partition]:
                self._finished.add(partition)
            elif partition not in self._finished and now - self._moved[partition][1] >= STILL_S:
                patience = self._patience[partition] = min(2 * self._patience.get(partition, LOOK_S / 2), TRANSACTION_S)
                if self._nothing_left(partition, position, patience):
                    self._finished.add(partition)
                self._moved[partition] = position, time.monotonic()

    def _nothing_left(self, partition: int, position: int, patience_s: float) -> bool:
        """Whether no record that a reader can get lies between here and the end. Many aborted records may lie between,
        so each look is more patient."""
        self._consumer.assign([TopicPartition(self._topic, partition, position)])
        try:
            for message in self._consumer.consume(1, patience_s):
                error: Any = message.error()
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    return (message.offset() or 0) >= self.ends[partition]
            return False
        finally:
            self._consumer.unassign()

    def _answered(self) -> int:
        ends, starts = self.ends, self.starts
        return sum(
            max(0, (ends[p] if p in self._finished else min(at, ends[p])) - starts[p])
            for p, at in self._positions.items()
        )

    def _total(self) -> int:
        return sum(max(0, end - self.starts[p]) for p, end in self.ends.items())

    def _lows(self) -> Positions:
        return {p: self._watermarks(p)[0] for p in self._partitions}

    def _offsets(self, at_ms: int) -> Positions:
        asked = [TopicPartition(self._topic, partition, at_ms) for partition in self._partitions]
        found = self._consumer.offsets_for_times(asked, timeout=clients.TIMEOUT_S)
        return {
            tp.partition: self._watermarks(tp.partition)[1] if tp.offset == OFFSET_END else tp.offset for tp in found
        }

    def _watermarks(self, partition: int) -> tuple[int, int]:
        place = TopicPartition(self._topic, partition)
        low, high = self._consumer.get_watermark_offsets(place, timeout=clients.TIMEOUT_S)
        return low, high
