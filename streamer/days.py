"""Days that are over: what every entity came to on each, over all partitions of a topic, told once.

A day is over when all partitions have come past its end (T. Akidau et al., "The dataflow model", VLDB 8(12), 2015: a
watermark). Pure: who reads the records, and makes what is told durable, is `streamer.cli.days`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

import msgspec
import structlog

from schemas import Event
from streamer.clock import Clock
from streamer.panes import DAY_S, from_the_future, hash_of, time_of
from streamer.records import Positions, Record

log = structlog.get_logger(__name__)

DAY_MS = 1000 * DAY_S
LATE_MS = 3_600_000
"""A day is open so long after its end, by event time, for events that come late."""
NEVER = -1_000_000
"""A day before all others."""
NOWHERE = -(2**62)
EPOCH = date(1970, 1, 1).toordinal()


class Days(msgspec.Struct, frozen=True):
    """Makes a worker's source topic of the events of another: an event a day of each entity that came to anything in
    the `history` days up to it. Days are those of UTC.

    `event`       the pydantic model of what is read, from its topic
    `amounts`     takes from an event its entities, and how much of each; an entity's on one day are added up
    `told`        the worker's event of an entity and a day, and of its amounts on `history` days, the oldest first. Its
                  key must be the entity, and its id follow from both
    `history_of`  the amounts in such an event again, from which a process that is started again goes on
    """

    event: type[Event]
    amounts: Callable[[Any], Iterable[tuple[str, int]]]
    told: Callable[[str, date, Sequence[int]], Event]
    history_of: Callable[[Any], Sequence[int]]
    history: int


class Verdict(StrEnum):
    """What came of an event. `repeated`: one with its id is in already; `late`: its day has been told; `future`: it
    happened more than a day after its record was written, or after now."""

    TAKEN = "taken"
    REPEATED = "repeated"
    LATE = "late"
    FUTURE = "future"


class _Open(msgspec.Struct):
    """A day that is not over: hashes of the ids that are in it, and each partition's first record of it."""

    seen: set[int] = msgspec.field(default_factory=set)
    first: Positions = msgspec.field(default_factory=dict)


class Calendar:
    """All that is known of all entities' days. Days are counted from 1970; `told` is the last that has been told."""

    def __init__(self, days: Days, partitions: Sequence[int], clock: Clock, told: int = NEVER) -> None:
        self.told = told
        self._clock = clock
        self._days = days
        self._amounts: dict[str, dict[int, int]] = defaultdict(dict)
        self._open: dict[int, _Open] = defaultdict(_Open)
        self._heads = dict.fromkeys(partitions, NOWHERE)

    def restore(self, event: Event) -> None:
        """Know again what was told of an entity on the last day."""
        amounts = self._days.history_of(event)
        first = self.told - len(amounts) + 1
        self._amounts[event.key] = {day: amount for day, amount in enumerate(amounts, first) if amount}

    def take(self, record: Record, event: Event) -> Verdict:
        """Let an event count on its day. Records of a partition in order; what the declaration's own code raises goes
        through, and nothing has changed then."""
        at_ms = time_of(event)
        if from_the_future(event, record.timestamp_ms) or from_the_future(event, self._clock.time_ms()):
            return Verdict.FUTURE  # it would end days that are not over
        found, day = list(self._days.amounts(event)), day_of(at_ms)
        self._heads[record.partition] = max(self._heads[record.partition], at_ms)
        if day <= self.told:
            return Verdict.LATE
        opened, identity = self._open[day], hash_of(event.event_id)
        opened.first.setdefault(record.partition, record.offset)
        if identity in opened.seen:
            return Verdict.REPEATED
        opened.seen.add(identity)
        for entity, amount in found:
            amounts = self._amounts[entity]
            amounts[day] = amounts.get(day, 0) + amount
        return Verdict.TAKEN

    def over(self, idle: AbstractSet[int]) -> Iterator[int]:
        """The days that are over and not told yet, in order; close each before the next is asked for. An `idle`
        partition, that is read to its end and has had nothing for a while, keeps no day open."""
        waited_for = [head for partition, head in self._heads.items() if partition not in idle]
        head = min(waited_for, default=max(self._heads.values()))  # of all that are idle everything has been read
        end = day_of(min(head, self._clock.time_ms()) - LATE_MS) if head > NOWHERE else NEVER
        if self.told == NEVER and self._open and end > min(self._open):
            self.told = min(self._open) - 1
        while NEVER < self.told < end - 1:
            yield self.told + 1

    def tell(self, day: int) -> Iterator[Event]:
        """What is to be told of a day that is over: an event of each entity that has anything to tell. One that cannot
        be told, as its amounts are too large, say, is left out, or nobody would be told anything any more."""
        days, when = self._days, date_of(day)
        window = range(day - days.history + 1, day + 1)
        for entity, amounts in sorted(self._amounts.items()):
            row = [amounts.get(one, 0) for one in window]
            if not any(row):
                continue
            try:
                event = days.told(entity, when, row)
            except Exception as error:  # of the declaration's own code; its text may quote the event
                log.error("a day of an entity that cannot be told", day=str(when), error=type(error).__name__)
                continue
            yield event

    def after(self, day: int, position: Positions) -> Positions:
        """Where to read on when this day has been told: before the first record of each later one. `position` is where
        reading is."""
        later = [opened.first for number, opened in self._open.items() if number > day]
        return {
            partition: min([first[partition] for first in later if partition in first], default=offset)
            for partition, offset in position.items()
        }

    def close(self, day: int) -> None:
        """The day has been told: nothing counts on it any more, and what is too old is forgotten."""
        self.told = day
        self._open.pop(day, None)
        oldest = day - self._days.history + 2  # of the next day
        for entity, amounts in [*self._amounts.items()]:
            for gone in [one for one in amounts if one < oldest]:
                del amounts[gone]
            if not amounts:
                del self._amounts[entity]


def day_of(at_ms: int) -> int:
    """The day of a time in milliseconds, counted from 1970."""
    return at_ms // DAY_MS


def date_of(day: int) -> date:
    """The date of a day that is counted from 1970."""
    return date.fromordinal(EPOCH + day)


def number_of(day: date) -> int:
    """The inverse of `date_of`."""
    return day.toordinal() - EPOCH


def end_of(day: date) -> datetime:
    """When a day is over."""
    return datetime.combine(date.fromordinal(day.toordinal() + 1), datetime.min.time(), UTC)
