"""The events to send: the worker's own samples, or the lines of a file, as records that are ready to send."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from pydantic import ValidationError

from streamer.errors import BadData, Usage
from streamer.worker import Worker, overrides

SEED = 7
LOOKED_AT = 2_000
"""The number of events from which size and repeats are estimated."""
TOLD_EACH = 500

Pair = tuple[bytes, bytes]
"""Key and value of a record."""


class Event(NamedTuple):
    """One record to be sent. `made`: the event in it, None when it does not fit the worker's model."""

    key: bytes
    value: bytes
    made: Any


class Feed(NamedTuple):
    """Endless events. `said` describes them for people; after `different` events (None: never) they repeat."""

    said: str
    events: Iterator[Event]
    different: int | None

    def take(self, wanted: int, told: Callable[[int], None]) -> list[Pair]:
        """The records of the next events; `told` gets the number of new ones now and then."""
        pairs = []
        for made, event in enumerate(islice(self.events, wanted), start=1):
            pairs.append((event.key, event.value))
            if made % TOLD_EACH == 0:
                told(TOLD_EACH)
        return pairs


class Look(NamedTuple):
    """Properties of the first events: the mean bytes of a value, the share (0..1) whose cache key came before (None:
    the worker caches nothing, or its keys need features of the store), and the events themselves."""

    bytes_mean: float
    repeats: float | None
    events: Sequence[Event]


def samples(worker: Worker[Any, Any], run: str) -> Feed:
    """Events of `Worker.sample`, with ids of this run and the current time."""
    own = overrides(worker, "sample")
    said = "samples of the worker" if own else "its example again and again, as the worker has no sample()"
    return Feed(said, _samples(worker, run), None if own else 1)


def lines(worker: Worker[Any, Any], file: Path) -> Feed:
    """The lines of a JSON-lines file, plain or gzip, unchanged; from the start again when they are used up.

    A line that does not fit the worker's model is sent as well: it becomes a dead letter, as in production.

    Raises:
        Usage: there is no such file.
        BadData: the file cannot be read or is empty, or no line fits the worker's event.
    """
    if not file.is_file():
        raise Usage(f"--file {file}: there is no such file; check its path")
    try:
        packed = file.read_bytes()
        text = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"--file {file} cannot be read: {error}") from error
    events = [_line(worker, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    wrong = sum(event.made is None for event in events)
    if wrong == len(events):
        raise BadData(f"--file {file}: no line of it is a {worker.event.__name__} in JSON; see streamer schema export")
    broken = f", {wrong:,} of them broken" if wrong else ""
    said = f"{file.name}, {len(events):,} lines{broken}, from the start again when they are used up"
    return Feed(said, cycle(events), len(events))


def look(worker: Worker[Any, Any], feed: Feed) -> Look:
    """Take the first events and determine their properties."""
    events = list(islice(feed.events, min(LOOKED_AT, feed.different or LOOKED_AT)))
    mean = sum(len(event.value) for event in events) / len(events)
    return Look(mean, _repeats(worker, [event.made for event in events if event.made is not None]), events)


def _samples(worker: Worker[Any, Any], run: str) -> Iterator[Event]:
    random = Random(SEED)  # noqa: S311
    for number in count():
        event = worker.sample(random, number)
        event = event.model_copy(update={"event_id": f"{run}-{number}", "occurred_at": datetime.now(UTC)})
        yield Event(event.key.encode(), event.model_dump_json().encode(), event)


def _line(worker: Worker[Any, Any], number: int, line: bytes) -> Event:
    try:
        event = worker.event.model_validate_json(line)
    except ValidationError:
        return Event(f"line-{number}".encode(), line, None)
    return Event(event.key.encode(), line, event)


def _repeats(worker: Worker[Any, Any], events: Sequence[Any]) -> float | None:
    if not overrides(worker, "cache_key"):
        return None
    try:
        keys: list[Hashable] = [worker.cache_key(event, {}) for event in events]
    except Exception:  # it needs features, which only the feature store has
        return None
    cached = [key for key in keys if key is not None]
    return (len(cached) - len(set(cached))) / len(keys)
