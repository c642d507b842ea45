"""Features made again from the events: as they are when nothing lags, or as they were when a prediction used them."""

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
    """A record with an event, whose it is, and when it was written (0: that is not known)."""

    place: Place
    entity: str
    event: Any
    written_ms: int = 0

    @property
    def future(self) -> bool:
        """Whether it counts for nothing but itself."""
        return from_the_future(self.event, self.written_ms)


class Made(NamedTuple):
    """What is known of the entity at an event, and what it is made of."""

    seen: Seen
    features: Features
    as_of: AsOf


def level(entities: Entities, records: Iterable[Seen]) -> Iterator[Made]:
    """The features at each event, of all records before it: what to train on. Records in order, by partition."""
    kept: dict[tuple[int, str], Kept] = defaultdict(Kept)
    for seen in records:
        mine = kept[seen.place[0], seen.entity]
        try:
            features, as_of = entities.known(decode(encode(mine)) if seen.future else mine, seen.event, seen.place[1])
        except Exception:  # noqa: S112 - of what a window takes from the event: it counts nowhere, and the worker rejects it
            continue
        yield Made(seen, features, as_of)


def as_logged(entities: Entities, records: Iterable[Seen], logged: Mapping[Place, int]) -> Iterator[Made]:
    """The features of the events at these places, of the records that the windows had then: up to the offset that was
    logged, which may lie before the event or after it. Records in order, by partition, from the first on.

    A place comes as soon as its event and what it is made of have been read; one whose records are gone never does.
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
