"""Features that are made again from the events: as they are when nothing lags, or as a prediction used them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from streamer.features.entities import AsOf, Entities, Kept, decode, encode
from streamer.panes import from_the_future
from streamer.worker import Features

Place = tuple[int, int]
"""Partition and offset of a record."""


class Seen(NamedTuple):
    """A record with its event, the entity that it is about, and when the record was written (0: not known)."""

    place: Place
    entity: str
    event: Any
    written_ms: int = 0

    @property
    def future(self) -> bool:
        """Whether the event counts for no features but its own."""
        return from_the_future(self.event, self.written_ms)


class Made(NamedTuple):
    """The features of the entity at an event, and what they are made of."""

    seen: Seen
    features: Features
    as_of: AsOf


def level(entities: Entities, records: Iterable[Seen]) -> Iterator[Made]:
    """The features at each event, made of all records before it: what to train on. `records` are in order within each
    partition."""
    kept: dict[tuple[int, str], Kept] = defaultdict(Kept)
    for seen in records:
        mine = kept[seen.place[0], seen.entity]
        try:
            features, as_of = entities.known(decode(encode(mine)) if seen.future else mine, seen.event, seen.place[1])
        except Exception:  # noqa: S112 - a window fails on the event: it counts nowhere, and the worker rejects it
            continue
        yield Made(seen, features, as_of)


def as_logged(entities: Entities, records: Iterable[Seen], logged: Mapping[Place, int]) -> Iterator[Made]:
    """The features of the events at the logged places, made of the records that the windows had then. Those end at the
    logged offset, which may lie before the event or after it. `records` are in order within each partition, from the
    first on.

    A place is yielded as soon as its event and the records of its features have been read. A place whose records are
    gone is never yielded.
    """
    kept: dict[tuple[int, str], Kept] = defaultdict(Kept)
    events: dict[Place, Seen] = {}
    states: dict[Place, bytes] = {place: encode(Kept()) for place, offset in logged.items() if offset < 0}
    waiting: dict[Place, list[Place]] = defaultdict(list)
    for (partition, offset), until in logged.items():
        waiting[partition, until].append((partition, offset))
    for seen in records:
        partition, offset = seen.place
        mine = kept[partition, seen.entity]
        try:
            if not seen.future:
                entities.take(mine, seen.event, offset)
        except Exception:  # noqa: S112 - as above
            continue
        ready = waiting.pop(seen.place, [])
        if ready:
            states |= dict.fromkeys(ready, encode(mine))
        if seen.place in logged:
            events[seen.place] = seen
            ready.append(seen.place)
        for place in dict.fromkeys(ready):
            if place in events and place in states:
                about = events.pop(place)
                yield Made(about, *entities.known(decode(states.pop(place)), about.event, place[1]))
