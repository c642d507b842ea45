"""Windows over an entity's events: the state that is kept, and the features at a time.

Event time is cut into panes that do not overlap, of five minutes, an hour, a day and four weeks; each keeps one
aggregate of its events. A feature over a span joins the newest panes of one size when it is read (J. Li et al., "No
pane, no gain", SIGMOD Record 34(1), 2005): it moves with the clock although nothing is written, and the state does
not grow with the number of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from typing import Any, Literal

import msgspec

from schemas import Event

HOUR_S, DAY_S = 3_600, 86_400
AHEAD_MS = 1000 * DAY_S
"""An event that is dated this long after its record was written is wrong, and would make all correct events late."""
SPANS: Mapping[str, int] = {"1h": HOUR_S, "1d": DAY_S, "7d": 7 * DAY_S, "28d": 28 * DAY_S, "364d": 364 * DAY_S}
"""Names of spans, in seconds."""
PANES: Mapping[str, int] = {"1h": 300, "1d": HOUR_S, "7d": DAY_S, "28d": DAY_S, "364d": 28 * DAY_S}
"""Seconds of the panes that a span is made of. In the middle of a pane, a span is the beginning of that pane and the
whole panes before it: up to one pane less than its name says."""
SKETCH = 64
"""The number of smallest hashes that stand for a set: exact below it, then within 1 / sqrt(62), 13 %, in two of three
cases (Z. Bar-Yossef et al., "Counting distinct elements in a data stream", RANDOM 2002)."""

HASHES_MAX = 65_536

Of = Literal["count", "sum", "mean", "last", "distinct"]
Aggregate = list[Any]
"""The state of one pane for one window, in a form of that window's own."""


class Window(msgspec.Struct, frozen=True):
    """Features of a worker's entity over time: `<name>_<span>` for each of `spans`.

    `of` says what is made of the values: their count, sum, mean, the last one, or how many are distinct. `value` takes
    from an event a number, or for `distinct` a text or several; None where the event has none and does not count.
    """

    name: str
    of: Of
    value: Callable[[Any], float | str | Sequence[str] | None]
    spans: tuple[str, ...] = ("1h", "1d", "7d", "28d")

    def __post_init__(self) -> None:
        if unknown := set(self.spans) - SPANS.keys():
            raise ValueError(f"window {self.name}: no span {', '.join(sorted(unknown))}; there are {', '.join(SPANS)}")


class Entity(msgspec.Struct, array_like=True):
    """The state of one entity. `panes` are by size and number; each holds one aggregate for every window that has a
    span of such panes, in the order of the windows. `newest_ms` is the time of the newest event."""

    panes: dict[int, dict[int, list[Aggregate]]] = msgspec.field(default_factory=dict)
    newest_ms: int = -1


class Windows:
    """The windows of a worker: how its events change an entity, and what the entity's features are at a time."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = windows
        self._by_size = {
            size: [place for place, window in enumerate(windows) if size in map(PANES.__getitem__, window.spans)]
            for size in sorted(set(PANES.values()))
        }
        self._features = {
            size: [
                (f"{windows[place].name}_{span}", SPANS[span] // size, column, _JOIN[windows[place].of])
                for column, place in enumerate(placed)
                for span in windows[place].spans
                if PANES[span] == size
            ]
            for size, placed in self._by_size.items()
            if placed
        }
        self._kept = {size: max(count for _, count, _, _ in made) for size, made in self._features.items()}

    def add(self, entity: Entity, event: Any, at_ms: int) -> bool:
        """Take in an event of this time. False when it is too late for every span; then nothing changes, nor does it
        when a window's `value` raises."""
        values = [
            _VALUE[window.of](value) if (value := window.value(event)) is not None else None for window in self._windows
        ]
        taken = False
        entity.newest_ms = max(entity.newest_ms, at_ms)
        for size, kept in self._kept.items():
            panes, number = entity.panes.setdefault(size, {}), _pane(at_ms, size)
            oldest = _pane(entity.newest_ms, size) - kept + 1
            if number < oldest:
                continue
            taken = True
            aggregates = panes.get(number)
            if aggregates is None:
                aggregates = panes[number] = [[] for _ in self._by_size[size]]
                for gone in [one for one in panes if one < oldest]:
                    del panes[gone]
            for place, aggregate in zip(self._by_size[size], aggregates, strict=True):
                if values[place] is not None:
                    _TAKE[self._windows[place].of](aggregate, values[place], at_ms)
        return taken

    def at(self, entity: Entity, at_ms: int) -> dict[str, float]:
        """The features of the entity at a time. Without events, means and last values are absent; the others are 0."""
        features = {}
        for size, made in self._features.items():
            end, panes = _pane(at_ms, size), sorted(entity.panes.get(size, {}).items())
            for name, count, column, join in made:
                value = join([kept[column] for number, kept in panes if end - count < number <= end and kept[column]])
                if value is not None:
                    features[name] = value
        return features


def _pane(at_ms: int, size_s: int) -> int:
    return at_ms // (1000 * size_s)


def _take_count(kept: Aggregate, value: Any, at_ms: int) -> None:
    kept[:] = [(kept[0] if kept else 0) + 1]


def _take_sum(kept: Aggregate, value: Any, at_ms: int) -> None:
    total, count = kept or (0.0, 0)
    kept[:] = [total + value, count + 1]


def _take_last(kept: Aggregate, value: Any, at_ms: int) -> None:
    if not kept or at_ms >= kept[0]:
        kept[:] = [at_ms, value]


def _take_distinct(kept: Aggregate, value: Any, at_ms: int) -> None:
    kept[:] = sorted({*kept, *value})[:SKETCH]


def _number(value: Any) -> float:
    """Raises ValueError or TypeError for a value that is no finite number, before anything has changed."""
    number = float(value)
    if not isfinite(number):
        raise ValueError("a window's value must be finite")
    return number


def _hashes(value: Any) -> list[int]:
    return [_remembered(text) for text in ((value,) if isinstance(value, str) else value)]


def time_of(event: Event) -> int:
    """The time of an event, in milliseconds since 1970."""
    return round(event.occurred_at.timestamp() * 1000)


def from_the_future(event: Event, written_ms: int) -> bool:
    """Whether an event is dated well after its record was written, at `written_ms` (0: unknown)."""
    return 0 < written_ms < time_of(event) - AHEAD_MS


def hash_of(value: str) -> int:
    """63 bits that are the same in every process: a number of Redis and of JSON."""
    return int.from_bytes(blake2b(value.encode(errors="surrogatepass"), digest_size=8).digest()) >> 1


_remembered = lru_cache(HASHES_MAX)(hash_of)  # values come again, as an article does; a look-up takes a tenth of a hash


def _distinct(sketches: Iterable[Aggregate]) -> float:
    smallest = sorted({one for kept in sketches for one in kept})[:SKETCH]
    return len(smallest) if len(smallest) < SKETCH else (SKETCH - 1) * 2.0**63 / smallest[-1]


def _mean(sums: Sequence[Aggregate]) -> float | None:
    count = sum(one[1] for one in sums)
    return sum(one[0] for one in sums) / count if count else None


_VALUE: Mapping[str, Callable[[Any], Any]] = {
    "count": lambda value: 1,
    "sum": _number,
    "mean": _number,
    "last": _number,
    "distinct": _hashes,
}
_TAKE: Mapping[str, Callable[[Aggregate, Any, int], None]] = {
    "count": _take_count,
    "sum": _take_sum,
    "mean": _take_sum,
    "last": _take_last,
    "distinct": _take_distinct,
}
_JOIN: Mapping[str, Callable[[Sequence[Aggregate]], float | None]] = {
    "count": lambda kept: float(sum(one[0] for one in kept)),
    "sum": lambda kept: float(sum(one[0] for one in kept)),
    "mean": _mean,
    "last": lambda kept: float(max(kept, key=lambda one: one[0])[1]) if kept else None,
    "distinct": lambda kept: float(_distinct(kept)),
}
