"""Days that are over: the amounts of every entity on a day, over all partitions of a topic, each day emitted once.

A day is over when the watermark, the least event time over all partitions, is past its end (T. Akidau et al., "The
dataflow model", VLDB 8(12), 2015). Pure: `streamer.cli.days` reads the records and makes the emitted events durable.
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
"""How long a day stays open after its end, by event time, for late events."""
NEVER = -1_000_000
"""A day before all others."""
NOWHERE = -(2**62)
EPOCH = date(1970, 1, 1).toordinal()


class Days(msgspec.Struct, frozen=True):
    """Makes a worker's source topic from the events of another topic: one event for each day and each entity that has
    an amount in the `history` days up to that day. Days are those of UTC.

    `event`       the pydantic model of the events that are read; it names their topic
    `amounts`     an event's entities and their amounts; the amounts of an entity on one day are added up
    `told`        makes the worker's event from an entity, a day, and the amounts on `history` days, the oldest first.
                  Its key must be the entity, and its id must follow from entity and day
    `history_of`  the amounts in such an event, from which a process that is started again goes on
    """

    event: type[Event]
    amounts: Callable[[Any], Iterable[tuple[str, int]]]
    told: Callable[[str, date, Sequence[int]], Event]
    history_of: Callable[[Any], Sequence[int]]
    history: int


class Verdict(StrEnum):
    """What became of an event. `repeated`: an event with its id was counted before. `late`: its day was emitted
    already. `future`: it is dated more than a day after its record was written, or after now."""

    TAKEN = "taken"
    REPEATED = "repeated"
    LATE = "late"
    FUTURE = "future"


class _Open(msgspec.Struct):
    """A day that is not over: hashes of the event ids in it, and the first record of it in each partition."""

    seen: set[int] = msgspec.field(default_factory=set)
    first: Positions = msgspec.field(default_factory=dict)


class Calendar:
    """The days of all entities. Days are counted from 1970; `told` is the last day that was emitted."""

    def __init__(self, days: Days, partitions: Sequence[int], clock: Clock, told: int = NEVER) -> None:
        self.told = told
        self._clock = clock
        self._days = days
        self._amounts: dict[str, dict[int, int]] = defaultdict(dict)
        self._open: dict[int, _Open] = defaultdict(_Open)
        self._heads = dict.fromkeys(partitions, NOWHERE)

    def restore(self, event: Event) -> None:
        """Restore the state of an entity from its event of the last day."""
        amounts = self._days.history_of(event)
        first = self.told - len(amounts) + 1
        self._amounts[event.key] = {day: amount for day, amount in enumerate(amounts, first) if amount}

    def take(self, record: Record, event: Event) -> Verdict:
        """Count an event on its day. Takes the records of a partition in order. An exception of the declaration's own
        code is passed on, and nothing has changed then."""
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
        """The days that are over and not emitted yet, in order; close each before you ask for the next. An `idle`
        partition, read to its end and silent for a while, keeps no day open."""
        waited_for = [head for partition, head in self._heads.items() if partition not in idle]
        head = min(waited_for, default=max(self._heads.values()))  # of all that are idle everything has been read
        end = day_of(min(head, self._clock.time_ms()) - LATE_MS) if head > NOWHERE else NEVER
        if self.told == NEVER and self._open and end > min(self._open):
            self.told = min(self._open) - 1
        while NEVER < self.told < end - 1:
            yield self.told + 1

    def tell(self, day: int) -> Iterator[Event]:
        """The events of a day that is over, one for each entity with an amount. An event that cannot be made, for
        example because its amounts are too large, is left out; else no further day could be emitted."""
        days, when = self._days, date_of(day)
        window = range(day - days.history + 1, day + 1)
        for entity, amounts in sorted(self._amounts.items()):
            row = [amounts.get(one, 0) for one in window]
            if not any(row):
                continue
            try:
                event = days.told(entity, when, row)
            except Exception as error:  # of the declaration's own code; its text may quote the event
                log.error("an entity's day cannot be made an event", day=str(when), error=type(error).__name__)
                continue
            yield event

    def after(self, day: int, position: Positions) -> Positions:
        """The offsets to read on from once this day is emitted: before the first record of each later day. `position`
        holds the next offsets of reading."""
        later = [opened.first for number, opened in self._open.items() if number > day]
        return {
            partition: min([first[partition] for first in later if partition in first], default=offset)
            for partition, offset in position.items()
        }

    def close(self, day: int) -> None:
        """Note that the day was emitted: no event counts on it any more, and amounts that are too old are forgotten."""
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
    """The end of a day."""
    return datetime.combine(date.fromordinal(day.toordinal() + 1), datetime.min.time(), UTC)
