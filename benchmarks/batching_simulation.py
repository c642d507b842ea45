"""A simulated runner behind a batcher: what is asked when, and when each event is answered.

Arithmetic on simulated seconds: no clock, no thread, no sleep. The loop asks what `streamer.engine` asks, and a runner
has at most two batches out, as there: one that runs and one that is ready. Decoding, hand-over and commits take no
time here, so that policies differ by their batches alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from streamer.engine.batcher import CostModel, Release
from streamer.slices import Batch, Rows, Slice

SLOTS = 2
TICK_S = 1e-6
"""The finest wait: by the rounding of a float the loop could ask about one moment for ever."""


class Arrival(NamedTuple):
    """An event: when it happened and when it is read (seconds from the start), its words, its partition."""

    timestamp_s: float
    read_s: float
    words: int
    partition: int


class Profile(NamedTuple):
    """A model on a device: a batch takes `fixed_s + per_word_s * words`, padding included; the budget of a batch is
    `cost_max` words."""

    name: str
    fixed_s: float
    per_word_s: float
    cost_max: int

    def seconds(self, items: int, longest: int) -> float:
        """The time of a batch, each of whose texts is padded to the longest."""
        return self.fixed_s + self.per_word_s * items * longest


class Policy(Protocol):
    """What the engine asks of `streamer.engine.batcher.Batcher`, where the answers are described."""

    def add(self, waiting: Iterable[Rows], now: float) -> None: ...

    def ready(self, now: float, out: int) -> Release | None: ...

    def due_in(self, now: float, out: int) -> float | None: ...

    def take(self, now: float, reason: Release) -> Batch: ...


class Stuck(Exception):
    """A policy keeps events for ever."""


class Run(NamedTuple):
    """When each arrival was answered (seconds, in the order of the arrivals), and the batches that it took."""

    answered_s: list[float]
    batches: int
    busy_s: float


class Runner:
    """Runs batches one after the other, and teaches `costs` how long they took."""

    def __init__(self, profile: Profile, costs: CostModel) -> None:
        self._profile = profile
        self._costs = costs
        self._out: deque[tuple[float, float, Batch]] = deque()
        self.batches = 0
        self.busy_s = 0.0

    @property
    def out(self) -> int:
        """Batches that were submitted and have not come back."""
        return len(self._out)

    @property
    def ends_s(self) -> float:
        """When the running batch ends; infinity when none runs."""
        return self._out[0][0] if self._out else float("inf")

    def submit(self, batch: Batch, now: float) -> None:
        """Run a batch after the one that is out."""
        seconds = self._profile.seconds(len(batch), max(row.cost for rows in batch.rows for row in rows))
        starts_s = self._out[-1][0] if self._out else now
        self._out.append((starts_s + seconds, seconds, batch))
        self.batches += 1
        self.busy_s += seconds

    def finished(self) -> Batch:
        """Take back the batch that has run."""
        _, seconds, batch = self._out.popleft()
        self._costs.observe(len(batch), batch.cost, seconds)
        return batch


def simulate(
    policy: Policy, costs: CostModel, profile: Profile, arrivals: Sequence[Arrival], goal_s: float | None
) -> Run:
    """Answer every arrival in the batches that `policy` makes. `costs` learns from them, as in the engine; `goal_s`
    gives fresh events their due time, None gives none.

    Raises:
        Stuck: the policy keeps events for ever.
    """
    runner = Runner(profile, costs)
    answered_s = [float("nan")] * len(arrivals)
    unread = deque(sorted(range(len(arrivals)), key=lambda number: arrivals[number].read_s))
    left = len(arrivals)
    now = 0.0
    while left:
        now = _next(policy, runner, now, arrivals[unread[0]].read_s if unread else float("inf"))
        while runner.ends_s <= now:
            for rows in runner.finished().rows:
                for row in rows:
                    answered_s[row.offset] = now
                    left -= 1
        read = []
        while unread and arrivals[unread[0]].read_s <= now:
            read.append(unread.popleft())
        if read:
            policy.add([_waiting(read, arrivals, now, goal_s)], now)
        while runner.out < SLOTS and (reason := policy.ready(now, runner.out)) is not None:
            runner.submit(policy.take(now, reason), now)
    return Run(answered_s, runner.batches, runner.busy_s)


def in_order(arrivals: Sequence[Arrival], answered_s: Sequence[float]) -> list[float]:
    """When the ledger releases the answers: each after those before it in its partition. Arrivals are in the order
    of the log."""
    latest: dict[int, float] = {}
    released = []
    for arrival, moment in zip(arrivals, answered_s, strict=True):
        latest[arrival.partition] = max(moment, latest.get(arrival.partition, 0.0))
        released.append(latest[arrival.partition])
    return released


def capacity(profile: Profile, words: Sequence[int]) -> float:
    """The best possible rate, in events a second: texts of such lengths sorted by length, cut into the largest
    batches that the budget allows, one after the other. No policy reaches it: it would have to see all texts first."""
    ordered = sorted(words)
    seconds = 0.0
    start = 0
    for at, longest in enumerate(ordered):
        following = ordered[at + 1] if at + 1 < len(ordered) else None
        if following is None or (at + 2 - start) * following > profile.cost_max:
            seconds += profile.seconds(at + 1 - start, longest)
            start = at + 1
    return len(ordered) / seconds


def _waiting(numbers: Sequence[int], arrivals: Sequence[Arrival], now: float, goal_s: float | None) -> Rows:
    """What a batcher reads of these arrivals; an offset says which arrival it is."""
    nothing = [None] * len(numbers)
    columns = Slice("arrivals", 0, numbers, nothing, nothing, None, [0] * len(numbers))
    columns.costs = [arrivals[number].words for number in numbers]
    columns.due = [_due(arrivals[number], now, goal_s) for number in numbers]
    return columns.rows()


def _due(arrival: Arrival, now: float, goal_s: float | None) -> float | None:
    due = None if goal_s is None else arrival.timestamp_s + goal_s
    return due if due is not None and due > now else None


def _next(policy: Policy, runner: Runner, now: float, read_s: float) -> float:
    """The moment at which something is read, ends or is due."""
    moment = min(read_s, runner.ends_s)
    if runner.out < SLOTS and (wait_s := policy.due_in(now, runner.out)) is not None:
        moment = min(moment, now + max(wait_s, TICK_S))
    if moment == float("inf"):
        raise Stuck("events wait, but nothing runs, comes or is due: the policy must say when it releases them")
    return max(moment, now)
