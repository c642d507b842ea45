"""The batcher decides when a batch is ready, and which items are in it. It is pure: it answers questions and never
sleeps.

It is work-conserving: an idle runner takes the items that wait, so a single event runs alone and batches grow under
load. A batch costs items x the bound of its longest length bucket (padding is computed too). The batcher
learns the time of a batch as `a + b * cost`; that and the latency goal give the last moment at which it may start.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from streamer.records import BatchPolicy
from streamer.slices import Batch, Rows


class Release(StrEnum):
    """Why a batch was released; the value of the metric label."""

    FULL = "full"
    DUE = "due"
    IDLE = "idle"
    DRAIN = "drain"
    ALONE = "alone"
    """Not from the batcher: the record was on the device when a process died."""


class CostModel:
    """Time of a batch as `a + b * cost`: least squares over the batches so far; older ones count less."""

    def __init__(self, memory: float = 0.98) -> None:
        self._memory = memory
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self.fixed_s = 0.0
        self.per_cost_s = 0.0
        self.per_item_s = 0.0

    def observe(self, items: int, cost: int, seconds: float) -> None:
        """Learn that a batch of `items` and padded `cost` took `seconds`."""
        keep = self._memory
        self.per_item_s += (1 - keep) * (seconds / items - self.per_item_s) if self._n else seconds / items
        self._n = keep * self._n + 1
        self._x = keep * self._x + cost
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + cost * cost
        self._xy = keep * self._xy + cost * seconds
        spread = self._n * self._xx - self._x * self._x
        if spread > 1e-9 * self._n * self._xx:
            slope = (self._n * self._xy - self._x * self._y) / spread
            self.per_cost_s = max(slope, 0.0)
        else:  # one size only so far: call all of it proportional
            self.per_cost_s = self._y / self._x
        self.fixed_s = max((self._y - self.per_cost_s * self._x) / self._n, 0.0)

    def seconds(self, cost: int) -> float:
        """The time that a batch of `cost` will take, in seconds; 0 before the first observation."""
        return self.fixed_s + self.per_cost_s * cost


class Bucket:
    """Items of one length bound, in the order of arrival."""

    __slots__ = ("_count", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Rows]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def since(self) -> float:
        """Since when the oldest item waits."""
        return self._waiting[0][0]

    @property
    def due(self) -> float | None:
        """When the answer of the oldest item is due."""
        rows = self._waiting[0][1]
        return rows.columns.due[rows.at[0]] if rows.columns.due else None

    def add(self, now: float, rows: Rows) -> None:
        """Let items wait from `now` on."""
        self._waiting.append((now, rows))
        self._count += len(rows)

    def oldest(self, items_max: int) -> Rows:
        """Take the oldest items, all of one slice, at most so many."""
        since, rows = self._waiting.popleft()
        if len(rows) > items_max:
            rows, rest = rows.cut(items_max)
            self._waiting.appendleft((since, rest))
        self._count -= len(rows)
        return rows


class Batcher:
    """Items that wait for the runner, in length buckets, each in arrival order."""

    PASSED_OVER_MAX = 4
    """How many batches may pass older items of another bucket: records are released in order, so waiting costs
    memory."""

    def __init__(self, policy: BatchPolicy, costs: CostModel) -> None:
        self._policy = policy
        self._costs = costs
        self._buckets: dict[int, Bucket] = {}
        self._count = 0
        self._draining = False
        self._passed_over = 0

    def __len__(self) -> int:
        """Items that wait."""
        return self._count

    def add(self, waiting: Iterable[Rows], now: float) -> None:
        """Let items wait from `now` on; the column `costs` says their lengths, `due` when their answers are due."""
        for rows in waiting:
            for bound, some in self._by_bound(rows):
                bucket = self._buckets.get(bound)
                if bucket is None:
                    bucket = self._buckets[bound] = Bucket()
                bucket.add(now, some)
            self._count += len(rows)

    def _by_bound(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        if not len(rows):
            return
        costs = rows.of(rows.columns.costs) if rows.columns.costs else [1]
        bounds = {cost: self._policy.bound(cost) for cost in set(costs)}
        if len(set(bounds.values())) == 1:
            yield bounds[costs[0]], rows
            return
        places: dict[int, list[int]] = {}
        for at, cost in zip(rows.at, costs, strict=True):
            places.setdefault(bounds[cost], []).append(at)
        for bound, some in places.items():
            yield bound, Rows(rows.columns, some)

    def waited_s(self, now: float) -> float:
        """How long the oldest item has waited, in seconds; 0 when none waits."""
        return now - min(bucket.since for bucket in self._buckets.values()) if self._count else 0.0

    def drain(self) -> None:
        """From now on release every item that waits."""
        self._draining = True

    def refill(self) -> None:
        """From now on let items wait for a batch again."""
        self._draining = False

    def ready(self, now: float, out: int) -> Release | None:
        """Why a batch should go to the runner now, when the runner has `out` batches already; None to wait."""
        if not self._count:
            return None
        if any(self._fills(bound) for bound in self._buckets):
            return Release.FULL
        if self._draining:
            return Release.DRAIN
        if out == 0 and self._policy.linger_s == 0:
            return Release.IDLE
        wait = self.due_in(now, out)
        return Release.DUE if wait is not None and wait <= 0 else None

    def due_in(self, now: float, out: int) -> float | None:
        """Seconds until the answer of `ready` changes by itself; None when only another item or a finished batch can
        change it."""
        if not self._count or out:
            return None  # behind a running batch a small one starts no sooner than a full one
        dues = [(bucket.due, bound) for bound, bucket in self._buckets.items()]
        waits = [due - self._seconds(bound) - now for due, bound in dues if due is not None]
        waits.append(min(bucket.since for bucket in self._buckets.values()) + self._policy.linger_s - now)
        return min(waits)

    def take(self, now: float, reason: Release) -> Batch:
        """Take the batch that `ready` announced: the full bucket that waits longest, else the bucket of the oldest item
        together with buckets that are cheaper in one batch with it than in batches of their own."""
        bound = self._choose(reason)
        bounds = [bound] if self._fills(bound) else self._together(bound)
        longest = bounds[-1]
        room = max(1, min(self._budget(now, bound), self._policy.items_of(longest) * longest) // longest)
        waited_s = now - min(self._buckets[each].since for each in bounds)
        rows, count = self._pop_oldest(bounds, room)
        return Batch(rows, reason=reason, cost=count * longest, waited_s=waited_s)

    def _together(self, bound: int) -> list[int]:
        """The buckets that share a batch with this one, when all waiting items are cut by length into the batches that
        take the least time in all (dynamic programming over the cuts)."""
        bounds = sorted(self._buckets)
        best_s, cuts = [0.0], [0]  # of the first n buckets: their time, and where their last batch begins
        for end, longest in enumerate(bounds):
            count, items_max, found = 0, self._policy.items_of(longest), (math.inf, end)
            for start in range(end, -1, -1):
                count += len(self._buckets[bounds[start]])
                batches = -(-count // items_max)
                seconds = batches * self._costs.fixed_s + count * longest * self._costs.per_cost_s
                found = min(found, (best_s[start] + seconds, start))
            best_s.append(found[0])
            cuts.append(found[1])
        end = len(bounds)
        while bound < bounds[cuts[end]]:
            end = cuts[end]
        return bounds[cuts[end] : end]

    def _fills(self, bound: int) -> bool:
        return len(self._buckets[bound]) >= self._policy.items_of(bound)

    def _seconds(self, bound: int) -> float:
        return self._costs.seconds(bound * min(len(self._buckets[bound]), self._policy.items_of(bound)))

    def _choose(self, reason: Release) -> int:
        oldest = min(self._buckets, key=self._since)
        full = [bound for bound in self._buckets if self._fills(bound)]
        if reason is not Release.FULL or not full or oldest in full or self._passed_over >= self.PASSED_OVER_MAX:
            self._passed_over = 0
            return oldest
        self._passed_over += 1
        return min(full, key=self._since)

    def _since(self, bound: int) -> float:
        return self._buckets[bound].since

    def _budget(self, now: float, bound: int) -> int:
        """The padded cost that this batch may have, by the limits, and by the goal of an event that can still reach
        it."""
        budget = self._policy.items_of(bound) * bound
        due = self._buckets[bound].due
        per_cost, fixed_s = self._costs.per_cost_s, self._costs.fixed_s
        if due is None or per_cost == 0:
            return budget
        fits = int((due - now - fixed_s) / per_cost)
        # A batch that is mostly its fixed cost makes more events late than it saves.
        return budget if fits < max(bound, fixed_s / per_cost) else min(budget, fits)

    def _pop_oldest(self, bounds: Sequence[int], items_max: int) -> tuple[list[Rows], int]:
        """The oldest items of these buckets, and how many they are."""
        taken, count = [], 0
        while count < items_max and (left := [bound for bound in bounds if bound in self._buckets]):
            bound = min(left, key=self._since)
            rows = self._buckets[bound].oldest(items_max - count)
            if not self._buckets[bound]:
                del self._buckets[bound]
            taken.append(rows)
            count += len(rows)
        self._count -= count
        return taken, count
