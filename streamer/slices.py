"""What flows through the engine: records of one partition as columns, so that each stage costs a call a slice, not a
call a record. What concerns few records (dead letters, skips, answers from the cache) is kept beside the columns."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from operator import lt
from typing import Any, NamedTuple, TypeVar

import msgspec

from streamer.errors import Internal
from streamer.records import NO_FEATURES, RARE, Headers, Outcome, Rare, Record, Rejected

T = TypeVar("T")


class Slice:
    """Records of one partition that were read together, as columns of one length: what flows through the engine.

    The first columns are what was read (`headers` is None when no record has any). The others are filled in on the way,
    by the owner thread; those that only some workers need are None, or empty, until a record needs them:

    `events`        the decoded events, None until decoded
    `answers`       the outcomes: the worker's answer as JSON, None while the record is open, `RARE` where `rare` has it
    `rare`          the outcomes that are no computed answers, by row
    `costs`         the lengths in the worker's unit; without them each is 1
    `due`           the clock times by which the batches of the records should start
    `features`      the features of the events' entities, and `as_of` the records that these are made of
    `content_keys`  the keys of the answers in the cache, by row
    `followers`     the rows, of this slice or another, that wait for the answer of a row
    """

    __slots__ = (
        "answers", "as_of", "content_keys", "costs", "due", "events", "features", "followers", "headers", "keys",
        "lane", "offsets", "partition", "rare", "size", "times_ms", "topic", "values",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers | None] | None,
        times_ms: Sequence[int],
    ) -> None:
        self.topic, self.partition = topic, partition
        self.offsets, self.keys, self.values = offsets, keys, values
        self.headers, self.times_ms = headers, times_ms
        self.size = _bytes(keys) + _bytes(values)
        self.lane: Lane | None = None
        self.events: list[Any] = [None] * len(offsets)
        self.answers: list[bytes | None] = [None] * len(offsets)
        self.rare: dict[int, Rare] = {}
        self.costs: list[int] | None = None
        self.due: list[float | None] | None = None
        self.features: list[Mapping[str, float]] | None = None
        self.as_of: list[Any] | None = None
        self.content_keys: dict[int, bytes] = {}
        self.followers: dict[int, list[Row]] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def gone(self) -> bool:
        """Whether its partition was given up."""
        return self.lane is not None and self.lane.gone

    def rows(self) -> Rows:
        """All of it."""
        return Rows(self, range(len(self.offsets)))

    def let_go(self) -> None:
        """Drop what was read and decoded: all records are answered, and their messages made."""
        self.keys = self.values = ()
        self.events, self.headers, self.features, self.as_of, self.costs = [], None, None, None, None

    def before(self, offset: int) -> Slice | None:
        """Its records before an offset, as they were read; None when there are none."""
        count = bisect_left(self.offsets, offset)
        if count == len(self):
            return self
        if not count:
            return None
        headers = self.headers[:count] if self.headers else None
        read = (self.offsets[:count], self.keys[:count], self.values[:count], headers, self.times_ms[:count])
        return Slice(self.topic, self.partition, *read)

    def record(self, at: int) -> Record:
        """One of its records."""
        headers = self.headers[at] if self.headers else None
        return Record(
            self.topic, self.partition, self.offsets[at], self.keys[at], self.values[at], headers, self.times_ms[at]
        )


def sliced(records: Iterable[Record]) -> list[Slice]:
    """Records in the order in which they were read, as slices."""
    by_partition: dict[int, list[Record]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    return [
        Slice(
            some[0].topic,
            partition,
            [record.offset for record in some],
            [record.key for record in some],
            [record.value for record in some],
            [record.headers for record in some] if any(record.headers for record in some) else None,
            [record.timestamp_ms for record in some],
        )
        for partition, some in by_partition.items()
    ]


def _bytes(column: Sequence[bytes | None]) -> int:
    return sum(map(len, column if None not in column else filter(None, column)))  # type: ignore[arg-type]


class Row(NamedTuple):
    """One record of a slice, for what concerns few of them."""

    columns: Slice
    at: int

    @property
    def partition(self) -> int:
        return self.columns.partition

    @property
    def offset(self) -> int:
        return self.columns.offsets[self.at]

    @property
    def event(self) -> Any:
        return self.columns.events[self.at]

    @property
    def cost(self) -> int:
        """Its length in the worker's unit."""
        return self.columns.costs[self.at] if self.columns.costs else 1

    def alone(self) -> Rows:
        """As the stages take it."""
        return Rows(self.columns, [self.at])

    @property
    def outcome(self) -> Outcome | None:
        """Its outcome; None while it is open."""
        return self.columns.rare.get(self.at) or self.columns.answers[self.at]

    def give(self, features: Mapping[str, float], as_of: Any = None) -> None:
        """Fill in the features of its event's entity, and the records that these are made of."""
        columns, at = self
        if columns.features is None or columns.as_of is None:
            columns.features, columns.as_of = [NO_FEATURES] * len(columns), [None] * len(columns)
        columns.features[at], columns.as_of[at] = features, as_of

    def settle(self, outcome: Outcome) -> None:
        """Give it its one outcome.

        Raises:
            Internal: it has one already.
        """
        columns, at = self
        if columns.answers[at] is not None:
            raise Internal(f"offset {self.offset} of partition {self.partition} was settled twice")
        if isinstance(outcome, bytes):
            columns.answers[at] = outcome
        else:
            columns.answers[at], columns.rare[at] = RARE, outcome


class Rows(msgspec.Struct, frozen=True, gc=False):
    """Some records of a slice in their order: the places from one to another, or those that are left of these."""

    columns: Slice
    at: range | list[int]

    def __len__(self) -> int:
        return len(self.at)

    def __iter__(self) -> Iterator[Row]:
        return (Row(self.columns, at) for at in self.at)

    def of(self, column: Sequence[T]) -> Sequence[T]:
        """What a column holds for these records."""
        at = self.at
        return column[at.start : at.stop] if type(at) is range else [column[each] for each in at]

    def put(self, column: list[Any], values: Sequence[Any]) -> None:
        """Write what a column holds for these records: one value each.

        Raises:
            Internal: there are more or fewer values.
        """
        at = self.at
        if len(values) != len(at):
            raise Internal(f"{len(values)} values for {len(at)} records of partition {self.columns.partition}")
        if type(at) is range:
            column[at.start : at.stop] = values
        else:
            for each, value in zip(at, values, strict=True):
                column[each] = value

    def settle(self, outcomes: Sequence[bytes | Rejected]) -> None:
        """Give each record its one outcome.

        Raises:
            Internal: one of them has one already.
        """
        answers = self.columns.answers
        if self.of(answers).count(None) == len(self) and Rejected not in set(map(type, outcomes)):
            self.put(answers, outcomes)
            return
        for row, outcome in zip(self, outcomes, strict=True):
            row.settle(outcome)

    def open(self) -> Rows:
        """Those that have no outcome yet."""
        answers = self.of(self.columns.answers)
        if answers.count(None) == len(answers):
            return self
        return Rows(self.columns, [at for at, answer in zip(self.at, answers, strict=True) if answer is None])

    def cut(self, count: int) -> tuple[Rows, Rows]:
        """The first `count`, and the rest."""
        return Rows(self.columns, self.at[:count]), Rows(self.columns, self.at[count:])

    def rare(self) -> dict[int, Rare]:
        """The rare outcomes among these, in order."""
        rare = self.columns.rare
        within = self.at if type(self.at) is range else set(self.at)
        return {at: rare[at] for at in sorted(rare) if at in within}

    @property
    def position(self) -> int:
        """The offset to read next, once these are durable."""
        return self.columns.offsets[self.at[-1]] + 1

    @property
    def size(self) -> int:
        """The bytes of the whole slice, if its last record is among these; they count until then."""
        return self.columns.size if self.at[-1] == len(self.columns) - 1 else 0


class Lane:
    """The slices of one partition during one assignment that have open records.

    A lane that is `gone` stays with its slices. Whatever is settled on them later has no effect, so an answer for a
    partition that was given up is harmless.
    """

    __slots__ = ("gone", "opened", "partition", "released", "slices")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.slices: deque[Slice] = deque()
        self.released = 0  # how many records of the first slice
        self.opened = -1
        self.gone = False

    def open(self, columns: Slice) -> None:
        """Append a slice, whose offsets must grow.

        Raises:
            Internal: they do not.
        """
        offsets = [self.opened, *columns.offsets]
        if not all(map(lt, offsets, islice(offsets, 1, None))):
            last, offset = next(two for two in pairwise(offsets) if two[0] >= two[1])
            raise Internal(
                f"offset {offset} of partition {self.partition} came after {last}: "
                "the source must hand out growing offsets"
            )
        self.opened = offsets[-1]
        columns.lane = self
        self.slices.append(columns)

    def release(self) -> list[Rows]:
        """Take out the settled records with nothing open before them."""
        found = []
        while self.slices:
            columns, start = self.slices[0], self.released
            try:
                self.released = columns.answers.index(None, start)
            except ValueError:
                self.slices.popleft()
                self.released = 0
                found.append(Rows(columns, range(start, len(columns))))
                continue
            if self.released > start:
                found.append(Rows(columns, range(start, self.released)))
            break
        return found


class Batch(msgspec.Struct, frozen=True):
    """What the runner gets: records in the batcher's order, why they were released, their padded cost, and how long the
    first of them waited."""

    rows: list[Rows]
    reason: str
    cost: int
    waited_s: float

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def events(self) -> list[Any]:
        """The events in the batch's order."""
        return list(chain.from_iterable(rows.of(rows.columns.events) for rows in self.rows))

    def features(self) -> list[Mapping[str, float]]:
        """The features of the events' entities in the batch's order."""
        given = (
            rows.of(rows.columns.features) if rows.columns.features else [NO_FEATURES] * len(rows) for rows in self.rows
        )
        return list(chain.from_iterable(given))


class BatchResult(msgspec.Struct, frozen=True):
    """What the runner gives back: one answer (JSON bytes) or rejection a record, in the batch's order."""

    batch: Batch
    outcomes: list[bytes | Rejected]
    seconds: float

    def parts(self) -> Iterator[tuple[Rows, list[bytes | Rejected]]]:
        """The records and their outcomes, slice by slice.

        Raises:
            Internal: there are more or fewer outcomes than records.
        """
        if len(self.outcomes) != len(self.batch):
            raise Internal(f"{len(self.outcomes)} outcomes for {len(self.batch)} records")
        start = 0
        for rows in self.batch.rows:
            yield rows, self.outcomes[start : start + len(rows)]
            start += len(rows)
