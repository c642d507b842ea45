"""`streamer features`: what is known of entities, made again from the events."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from schemas import UsedFeatures, used_features
from streamer.cli.common import ConfigFile, Sets, settings
from streamer.cli.run import WorkerName
from streamer.errors import Unreachable, Usage
from streamer.features.log import used
from streamer.kafka import clients
from streamer.kafka.rights import needs
from streamer.settings import Settings
from streamer.telemetry.progress import progress

if TYPE_CHECKING:  # they import what a worker needs, and --help need not wait for it
    from streamer.features.backfill import Seen
    from streamer.records import Record

CHUNK = 1_000
GROUP = "streamer-features"

app = typer.Typer(help="What is known of entities, made again from the events.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Events as JSON lines (plain or .gz); default: the worker's topic."),
]
AsLogged = Annotated[
    bool, typer.Option("--as-logged", help="Only what is in features.<target>, as the windows had it then.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="JSON lines; default: standard output.")]


@app.command("backfill")
def backfill(
    worker: WorkerName,
    file: File = None,
    as_logged: AsLogged = False,
    out: Out = None,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Make the features of a worker's windows again, as of every event: one line each, to train on.

    It reads the events from the first to the last that is there now. Each line counts all records of its entity up to
    the event, as the worker sees them when nothing lags. With --as-logged it counts what the worker did see: the values
    must equal those that were logged (features.log_share), or something is wrong.

    Example: streamer features backfill purchase-propensity --out features.jsonl
    """
    if file and as_logged:
        raise Usage("--as-logged is about records of the topic; leave --file out")
    if file and not file.is_file():
        raise Usage(f"there is no file {file}; check its path")
    chosen = settings(config, sets)
    from streamer import discovery
    from streamer.features import backfill
    from streamer.windows import running

    found = discovery.find(worker)()
    entities = running.declared(found)
    records = _seen(chosen, found, _from_file(file) if file else _from_topic(chosen, found.source))
    made = backfill.level(entities, records)
    if as_logged:
        made = backfill.as_logged(entities, records, _logged(chosen, found))
    with _written(out) as lines, progress() as bar:
        task = bar.add_task("events", total=None)
        for one in made:
            value = used(found.name, (found.source, *one.seen.place), one.seen.event, one.features, one.as_of)
            lines.write(value.decode() + "\n")
            bar.advance(task)


@contextmanager
def _written(out: Path | None) -> Iterator[IO[str]]:
    """Where the lines go. A file gets its name only when it is complete."""
    if out is None:
        with nullcontext(sys.stdout) as lines:
            yield lines
        return
    half = out.with_name(f"{out.name}.part")
    with half.open("w", encoding="utf-8") as lines:
        yield lines
    half.replace(out)


def _seen(chosen: Settings, worker: Any, records: Iterator[Record]) -> Iterator[Seen]:
    """The valid events among the records, with their entities, as the windows read them."""
    from streamer.features.backfill import Seen
    from streamer.privacy import encryption
    from streamer.wire.reading import EventReader

    keys = encryption.cipher(chosen.encryption.keys_file, worker.event, worker.source)
    reader = EventReader(worker.event, chosen.limits.record_bytes_max, keys)
    while found := reader.read(list(islice(records, CHUNK))):
        for record, event, rejected in found:
            if rejected is not None:
                continue
            try:
                entity = worker.feature_key(event)
            except Exception:  # noqa: S112 - the worker dead-letters such an event, and the windows leave it out
                continue
            if entity is not None:
                yield Seen((record.partition, record.offset), entity, event, record.timestamp_ms)


def _from_file(file: Path) -> Iterator[Record]:
    from streamer.records import Record

    opened: Any = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rb") as lines:
        for number, line in enumerate(lines):
            yield Record(file.name, 0, number, b"file", line.strip(), None, 0)


def _from_topic(chosen: Settings, topic: str) -> Iterator[Record]:
    """All records that are there now, in order by partition."""
    from streamer.records import Record

    for message in _messages(chosen, topic):
        place = topic, message.partition(), message.offset()
        yield Record(*place, message.key(), message.value(), None, message.timestamp()[1])


def _logged(chosen: Settings, worker: Any) -> dict[tuple[int, int], int]:
    """For each (partition, offset) of the source topic whose features were logged: the offset that they count up to."""
    found, topic = {}, used_features(worker.target)
    if clients.counts(clients.admin(chosen), chosen, [topic], "READ")[topic] is None:
        raise Unreachable(
            f"nothing was logged: there is no topic {topic}. Run the worker with features.log_share above 0"
        )
    for message in _messages(chosen, topic):
        used = UsedFeatures.model_validate_json(message.value())
        found[used.source.partition, used.source.offset] = used.features_as_of.offset
    return found


def _messages(chosen: Settings, topic: str) -> Iterator[Any]:
    consumer = clients.consumer(chosen, GROUP)
    try:
        left = set(clients.partitions(consumer, chosen, topic, "READ"))
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        with clients.explained(consumer, chosen, needs("READ", "topic", topic), needs("DESCRIBE", "group", GROUP)):
            while left:
                for message in consumer.consume(CHUNK, 0.5):
                    if message.error() is None:
                        yield message
                    elif (error := message.error()) and error.code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
                    else:
                        raise KafkaException(message.error())
    finally:
        consumer.close()
