"""What a block of records makes of its entities. Pure: what is kept comes in, what changed goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from streamer.entities import Entities, Kept, Verdict, decode, encode, from_the_future
from streamer.event_reader import EventReader
from streamer.ledger import Lane
from streamer.records import Item, Record
from streamer.worker import Worker

log = structlog.get_logger(__name__)

Load = Callable[[bytes], bytes | None]
"""What is kept under a key of the block's partition."""
UNREADABLE = "unreadable"
"""Beside the verdicts: no event of the worker (which dead-letters it), or one that its windows fail on."""


class Taken(NamedTuple):
    """What a block came to: the entities that `changed`, by key, and how many records had which verdict."""

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
        items = [Item(record, Lane(record.partition)) for record in records]
        unreadable = {id(item) for item, _ in self._reader.decode_many(items)}
        counts[UNREADABLE] += len(unreadable)
        kept: dict[bytes, Kept] = {}
        changed: set[bytes] = set()
        for item in items:
            if id(item) in unreadable:
                continue
            try:
                key = self._key(item.event)
            except Exception as error:
                counts[UNREADABLE] += _failed(item, error)
                continue
            if key is None:
                continue
            if from_the_future(item.event, item.record.timestamp_ms):
                counts[Verdict.FUTURE] += 1
                continue
            if key not in kept:
                kept[key] = _kept(load(key))
            try:
                verdict = self._entities.take(kept[key], item.event, item.record.offset)
            except Exception as error:
                counts[UNREADABLE] += _failed(item, error)
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


def _failed(item: Item, error: Exception) -> int:
    """One event that the worker's own code fails on: it counts for nothing here, and the worker dead-letters it."""
    log.warning("an event that the windows fail on", error=type(error).__name__, offset=item.record.offset)
    return 1
