"""Whether a contestant's outputs are right: none lost, none repeated, and each with the score that it must have."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.answers import Reader
from benchmarks.events import PARTITIONS, Wanted
from schemas import dead_letters

TOLERANCE = 1e-5
"""How far a score may be off: batch and padding change the order of additions."""
FOREIGN = -1
"""The number of what names no event."""


class Columns(NamedTuple):
    """Outputs, one row each; `dead` are the events with a dead letter, None for a contestant that promises neither
    dead letters nor that an output keeps the partition and the order of its event."""

    numbers: Sequence[int]
    scores: Sequence[float]
    labels: Sequence[int]
    partitions: Sequence[int]
    dead: Sequence[int] | None


class Verdict(NamedTuple):
    """What became of the events of one run."""

    events: int
    lost: int
    duplicated: int
    wrong: int
    foreign: int
    unordered: int

    @property
    def faults(self) -> int:
        """How many things went wrong."""
        return sum(self[1:])

    def __str__(self) -> str:
        if not self.events:
            return "not checked"
        return f"{self.lost} / {self.duplicated} / {self.wrong + self.foreign + self.unordered}"


def total(verdicts: Iterable[Verdict]) -> Verdict:
    """The sums over several runs."""
    return Verdict(*map(sum, zip(*verdicts, strict=True)))


def judge(outputs: Columns, wanted: Wanted) -> Verdict:
    """Compare what came out with what must."""
    first, count = wanted.events.start, len(wanted.events)
    rows = np.asarray(outputs.numbers, np.int64) - first
    known = (rows >= 0) & (rows < count)
    at = rows[known]
    each = np.bincount(at, minlength=count)
    valid = ~wanted.broken
    lost, repeated = _missing(each[valid])
    wrong = int(each[wanted.broken].sum())
    foreign = int((~known).sum())
    if wanted.scores is not None and wanted.labels is not None:
        near = np.abs(np.asarray(outputs.scores)[known] - wanted.scores[at]) <= TOLERANCE
        same = np.asarray(outputs.labels)[known] == wanted.labels[at]
        wrong += int((valid[at] & ~(near & same)).sum())
    if outputs.dead is None:
        return Verdict(count, lost, repeated, wrong, foreign, 0)
    letters = np.asarray(outputs.dead, np.int64) - first
    ours = (letters >= 0) & (letters < count)
    each_dead = np.bincount(letters[ours], minlength=count)
    unburied, buried_again = _missing(each_dead[wanted.broken])
    return Verdict(
        events=count,
        lost=lost + unburied,
        duplicated=repeated + buried_again,
        wrong=wrong + int(each_dead[valid].sum()),
        foreign=foreign + int((~ours).sum()),
        unordered=_unordered(at + first, np.asarray(outputs.partitions)[known]),
    )


class Scored(Reader):
    """All outputs of a contestant, and all dead letters of `source` where that is named, as columns: millions fit."""

    def __init__(self, bootstrap: str, target: str, source: str | None = None) -> None:
        topics = [target] if source is None else [target, dead_letters(source)]
        super().__init__(bootstrap, dict.fromkeys(topics, dict.fromkeys(range(PARTITIONS), 0)))
        self.numbers, self.scores, self.labels = array("q"), array("d"), array("q")
        self.partitions, self.times_ms = array("b"), array("q")
        self.dead = None if source is None else array("q")
        self.hits = 0
        self._target = target

    def take(self, messages: Sequence[Any]) -> None:
        """Keep what each says, and when it was published."""
        for message in messages:
            number = number_of(message.key())
            if self.dead is not None and message.topic() != self._target:
                self.dead.append(number)
                continue
            said = _decode(message.value())
            content = said.answer or said
            self.numbers.append(number if number_of(said.event_id) == number else FOREIGN)
            self.scores.append(content.score)
            self.labels.append(content.label)
            self.partitions.append(message.partition())
            self.times_ms.append(message.timestamp()[1])
            self.hits += said.cache == "hit"

    @property
    def columns(self) -> Columns:
        """What was read so far."""
        return Columns(self.numbers, self.scores, self.labels, self.partitions, self.dead)


def number_of(event_id: str | bytes | None) -> int:
    """The number of the event with this id or record key; FOREIGN when it is none of ours."""
    return int(event_id) if event_id and event_id.isdigit() else FOREIGN


def _missing(each: NDArray[np.int64]) -> tuple[int, int]:
    """Of how often each came: how many never did, and how many came again."""
    return int((each == 0).sum()), int(np.maximum(each - 1, 0).sum())


def _unordered(numbers: NDArray[np.int64], partitions: NDArray[np.int8]) -> int:
    """How many left their partition or came after a later one of it."""
    strayed = int((numbers % PARTITIONS != partitions).sum())
    return strayed + sum(int((np.diff(numbers[partitions == one]) < 0).sum()) for one in range(PARTITIONS))


class _Content(msgspec.Struct, gc=False):
    score: float = 0.0
    label: int = 0


class _Said(msgspec.Struct, gc=False):
    """An output as a contestant prints it, or the envelope of `streamer`."""

    event_id: str
    score: float = 0.0
    label: int = 0
    cache: str = ""
    answer: _Content | None = None


_decode = msgspec.json.Decoder(_Said).decode
