"""How a block of records changes its entities. Pure: what is kept comes in, what changed goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from streamer.features.entities import Entities, Kept, Verdict, decode, encode
from streamer.panes import from_the_future
from streamer.records import Record
from streamer.wire.reading import EventReader
from streamer.worker import Worker

log = structlog.get_logger(__name__)

Load = Callable[[bytes], bytes | None]
"""What is kept under a key of the block's partition."""
UNREADABLE = "unreadable"
"""Beside the verdicts: a record that is no event of the worker, or an event that its windows fail on. The worker
dead-letters it."""


class Taken(NamedTuple):
    """The result of a block: the entities that `changed`, by key, and how many records had which verdict."""

    changed: dict[bytes, bytes]
    verdicts: Mapping[str, int]


class Keeper:
    """Decodes records as the worker does, and lets their events change what is kept of their entities."""

    def __init__(self, worker: Worker[Any, Any], entities: Entities, reader: EventReader) -> None:
        self._worker = worker
        self._entities = entities
        self._reader = reader

    def take(self, records: Sequence[Record], load: Load) -> Taken:
        """Take in records of one partition in order."""
        counts: Counter[str] = Counter()
        kept: dict[bytes, Kept] = {}
        changed: set[bytes] = set()
        for record, event, rejected in self._reader.read(records):
            if rejected is not None:
                counts[UNREADABLE] += 1
                continue
            try:
                key = self._key(event)
            except Exception as error:
                counts[UNREADABLE] += _failed(record, error)
                continue
            if key is None:
                continue
            if from_the_future(event, record.timestamp_ms):
                counts[Verdict.FUTURE] += 1
                continue
            if key not in kept:
                kept[key] = _kept(load(key))
            try:
                verdict = self._entities.take(kept[key], event, record.offset)
            except Exception as error:
                counts[UNREADABLE] += _failed(record, error)
                continue
            counts[verdict] += 1
            if verdict is not Verdict.KNOWN:
                changed.add(key)
        return Taken({key: encode(kept[key]) for key in changed}, +counts)

    def _key(self, event: Any) -> bytes | None:
        entity = self._worker.feature_key(event)
        return None if entity is None else entity.encode(errors="surrogatepass")


def _kept(value: bytes | None) -> Kept:
    return Kept() if value is None else decode(value)


def _failed(record: Record, error: Exception) -> int:
    """One event that the worker's own code fails on: it counts for nothing here, and the worker dead-letters it."""
    log.warning("an event that the windows fail on", error=type(error).__name__, offset=record.offset)
    return 1
