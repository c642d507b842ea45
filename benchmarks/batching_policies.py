"""Who is compared: the batcher of this repository, and batches of a fixed size with a linger, as elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from benchmarks.batching_simulation import Policy, Profile
from streamer.engine.batcher import Batcher, CostModel, Release
from streamer.records import BatchPolicy
from streamer.slices import Batch, Row, Rows

GOAL_S = 0.05


class FixedSize:
    """Batches of `items_max` in the order of arrival, smaller ones when the first item has waited for `linger_s`.

    Behind a running batch it is the same rule. Padding is paid as everywhere: items x longest.
    """

    def __init__(self, items_max: int, linger_s: float) -> None:
        self._items_max = items_max
        self._linger_s = linger_s
        self._waiting: deque[tuple[float, Row]] = deque()

    def add(self, waiting: Iterable[Rows], now: float) -> None:
        """Let items wait from `now` on."""
        self._waiting.extend((now, row) for rows in waiting for row in rows)

    def ready(self, now: float, out: int) -> Release | None:
        """Full, or the first has waited for long enough; None to wait."""
        if len(self._waiting) >= self._items_max:
            return Release.FULL
        wait_s = self.due_in(now, out)
        return Release.DUE if wait_s is not None and wait_s <= 0 else None

    def due_in(self, now: float, out: int) -> float | None:
        """Seconds until the first has waited for long enough; None when nothing waits."""
        return self._waiting[0][0] + self._linger_s - now if self._waiting else None

    def take(self, now: float, reason: Release) -> Batch:
        """Those that have waited longest."""
        waited_s = now - self._waiting[0][0]
        taken = [self._waiting.popleft()[1] for _ in range(min(self._items_max, len(self._waiting)))]
        cost = len(taken) * max(row.cost for row in taken)
        return Batch([row.alone() for row in taken], reason=reason, cost=cost, waited_s=waited_s)


class Contender(NamedTuple):
    """A policy by name; `make` gives a new one and what it learns from. `goal_s` gives events their due time."""

    name: str
    make: Callable[[Profile], tuple[Policy, CostModel]]
    goal_s: float | None
    fixed: bool


def streamer(name: str, make: Callable[[Profile], BatchPolicy]) -> Contender:
    """The batcher of this repository with the settings that `make` gives for a profile."""

    def batcher(profile: Profile) -> tuple[Policy, CostModel]:
        costs = CostModel()
        return Batcher(make(profile), costs), costs

    return Contender(name, batcher, make(Profile("any", 0.0, 0.0, 1)).goal_s, fixed=False)


def fixed(items_max: int, linger_ms: int) -> Contender:
    """A fixed size and a linger; the name says which."""

    def policy(profile: Profile) -> tuple[Policy, CostModel]:
        return FixedSize(items_max, linger_ms / 1000), CostModel()

    return Contender(f"fixed {items_max}, {linger_ms} ms", policy, GOAL_S, fixed=True)


OURS = streamer("streamer", lambda profile: BatchPolicy(cost_max=profile.cost_max, goal_s=GOAL_S))
CONTENDERS = [
    OURS,
    streamer("streamer, budget only", lambda profile: BatchPolicy(cost_max=profile.cost_max)),
    streamer("streamer, goal only", lambda profile: BatchPolicy(goal_s=GOAL_S)),
    fixed(16, 5),
    fixed(64, 10),
    fixed(256, 20),
    fixed(64, 0),
]
