"""`streamer produce`: a file of rows becomes events on a topic."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO

import typer
from pydantic import ValidationError

from schemas import EVENTS, Event
from streamer.cli.common import ConfigFile, DryRun, Limit, Sets, settings
from streamer.errors import BadData, Unreachable, Usage
from streamer.kafka import clients
from streamer.privacy import encryption, pii
from streamer.settings import Settings
from streamer.telemetry.progress import progress
from streamer.wire import headers

SHOWN_MAX = 20
"""Bad rows that are reported one by one; the rest is only counted."""
PROBLEMS_MAX = 3
"""Problems that are reported of one row."""
FLUSH_S = 35.0
"""Longer than the producer retries (message.timeout.ms)."""
DELIMITERS = ",;\t|"

File = Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON lines, plain or .gz.")]
Kind = Annotated[str, typer.Option("--as", metavar="|".join(EVENTS), help="What kind of event a row is.")]
Topic = Annotated[str | None, typer.Option("--topic", metavar="T", help="Another topic than the kind's own.")]
Rate = Annotated[float | None, typer.Option("--rate", min=0.001, metavar="N", help="Events a second at most.")]


class Row(NamedTuple):
    """One row of the file, numbered from 1 without the header: its event, or what is wrong with it."""

    number: int
    event: Event | None
    problem: str


def produce(
    file: File,
    kind: Kind,
    topic: Topic = None,
    rate: Rate = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Send the rows of a file as events. Ids are `<file>-<row>`, so sending it again repeats the same ids.

    Personal data is encrypted when encryption.keys_file is set.

    The columns event_id and occurred_at are used if the file has them. Rows that do not fit are reported and not sent.

    Example: streamer produce leads.csv.gz --as lead --rate 500
    """
    if kind not in EVENTS:
        raise Usage(f"--as {kind}: there is {', '.join(EVENTS)}")
    rows = read(file, EVENTS[kind])
    target = topic or EVENTS[kind].topic
    sender = _Sender(settings(config, sets), EVENTS[kind], target, rate)
    send = _check_only if dry_run else sender.send
    if not dry_run:
        sender.connect()
    good, bad = _each(rows, limit, send)
    sender.finish()
    print(f"{'would send' if dry_run else 'sent'} {good} events to {target}")
    if bad:
        raise BadData(f"{bad} of {good + bad} rows of {file} do not fit a {kind} event and were not sent")


def read(file: Path, event: type[Event]) -> Iterator[Row]:
    """The rows of a CSV (its delimiter is detected) or JSON-lines file, plain or gzip.

    Raises:
        Usage: the file is not there.
        BadData: it is not text, or not CSV; raised at the row where that shows, perhaps in the middle of the file.
    """
    if not file.is_file():
        raise Usage(f"there is no file {file}; check its path")
    return _rows(file, event)


def _rows(file: Path, event: type[Event]) -> Iterator[Row]:
    stem = file.name.partition(".")[0]
    now = datetime.now(UTC).isoformat()
    make = _from_json if {".jsonl", ".ndjson", ".json"} & set(file.suffixes) else _from_csv
    try:
        with _opened(file) as lines:
            yield from make(lines, event, stem, now)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise BadData(f"{file} is not UTF-8 text, plain or gzip: {error}") from error


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    with file.open("rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        plain = gzip.GzipFile(fileobj=raw) if packed else raw
        yield io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")


def _from_csv(lines: TextIO, event: type[Event], stem: str, now: str) -> Iterator[Row]:
    names = lines.readline()
    # csv.Sniffer would also guess at quotes, and guesses wrong when the first doubled quote comes late in the file.
    delimiter = max(DELIMITERS, key=names.count)
    columns = next(csv.reader([names], delimiter=delimiter), [])
    for number, row in enumerate(csv.DictReader(lines, columns, delimiter=delimiter), start=1):
        if None in row or None in row.values():
            yield Row(number, None, f"has another number of cells than the {len(columns)} of line 1")
            continue
        event_id = row.get("event_id") or f"{stem}-{number}"
        occurred_at = row.get("occurred_at") or now
        yield _row(number, event, partial(event.from_row, row, event_id=event_id, occurred_at=occurred_at))


def _from_json(lines: TextIO, event: type[Event], stem: str, now: str) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(number, None, f"is not JSON: {error}")
            continue
        if not isinstance(found, dict):
            yield Row(number, None, "is no JSON object")
            continue
        text = json.dumps({"event_id": f"{stem}-{number}", "occurred_at": now, **found})
        yield _row(number, event, partial(event.model_validate_json, text))


def _row(number: int, event: type[Event], make: Callable[[], Event]) -> Row:
    try:
        return Row(number, make(), "")
    except ValidationError as error:
        return Row(number, None, pii.described(error, pii.field_names(event), PROBLEMS_MAX))


def _each(rows: Iterator[Row], limit: int | None, send: Callable[[Event], None]) -> tuple[int, int]:
    """Send up to `limit` events. Returns how many rows fit and how many do not."""
    good = bad = 0
    with progress() as bar:
        task = bar.add_task("sending", total=limit)
        for row in rows:
            if row.event is None:
                bad += 1
                if bad <= SHOWN_MAX:
                    print(f"row {row.number}: {row.problem}", file=sys.stderr)
                continue
            send(row.event)
            good += 1
            bar.advance(task)
            if good == limit:
                break
    return good, bad


def _check_only(_: Event) -> None:
    """A dry run: the row was read and fits."""


class _Sender:
    """Sends events, at most at a rate. Every event is delivered, or `finish` says how many are not."""

    def __init__(self, chosen: Settings, event: type[Event], topic: str, rate: float | None) -> None:
        self._settings = chosen
        self._cipher = encryption.cipher(chosen.encryption.keys_file, event, topic)
        self._topic = topic
        self._interval_s = 1 / rate if rate else 0.0
        self._producer: Any = None
        self._next = 0.0
        self._failed: list[str] = []

    def connect(self) -> None:
        """Find the topic. Raises `Unreachable`."""
        self._producer = clients.producer(self._settings)
        clients.partitions(self._producer, self._settings, self._topic, "WRITE")
        self._next = time.monotonic()

    def send(self, event: Event) -> None:
        """Queue one event, when the rate allows it."""
        self._next += self._interval_s
        while (ahead := self._next - time.monotonic()) > 0 and self._interval_s:
            self._producer.poll(ahead)
        value = event.model_dump_json().encode()
        if self._cipher is not None:
            value = self._cipher.seal_fields(value)
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    event.key.encode(),
                    headers=[(headers.CONTENT_TYPE, b"application/json")],
                    on_delivery=self._delivered,
                )
                break
            except BufferError:  # the queue is full: let it drain
                self._producer.poll(0.1)
        self._producer.poll(0)

    def finish(self) -> None:
        """Wait until every event is delivered. Raises `Unreachable`."""
        if self._producer is None:
            return
        left = self._producer.flush(FLUSH_S)
        if left or self._failed:
            why = self._failed[0] if self._failed else "the broker does not answer"
            raise Unreachable(f"{left + len(self._failed)} events were not delivered: {why}; send the file again")

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(error.str())
