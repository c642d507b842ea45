"""One measured run: a fresh worker process on empty topics works off a backlog, or answers events at a rate."""

from __future__ import annotations

import gc
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from streamer.bench.broker import Broker, Places
from streamer.bench.child import job
from streamer.bench.events import Pair
from streamer.bench.measure import Latency, Window, latency, speed, steady, window
from streamer.bench.outcomes import Counts, Outcomes, waits_s
from streamer.bench.sending import Sender
from streamer.bench.serving import Moment, ServedWorker
from streamer.bench.steps import step
from streamer.demo.children import Died, free_port
from streamer.settings import Settings

LOOK_S = 0.2
STALL_S = 60.0
"""The run ends after this long without an outcome; missing outcomes then count as lost."""
WARM_UP_S = 1.0
"""Events that are sent in the first second at a rate do not count."""
QUIET_S = 0.3
CACHE_TTL_S = 120.0
"""The entries that a run leaves in the user's Redis expire this soon."""
SHORT_S = 1.0
"""A shorter run says little: answers are published some ten times a second."""
KEPT = 0.95
"""The worker keeps up when it answers at this share of the rate."""


class Run(msgspec.Struct, frozen=True):
    """`rate` is the asked rate in events/s, None for a backlog; `sent_per_s` the rate that was sent; `latency` is
    measured only at a rate; `rss_mib` is the most memory seen; `load` is the load average of the machine before the
    run. `short` says that the run was too short and its speed is a guess."""

    rate: float | None
    counts: Counts
    events_per_s: float | None
    sent_per_s: float | None
    latency: Latency | None
    window: Window | None
    rss_mib: float | None
    load: float
    short: bool

    @property
    def name(self) -> str:
        """The name of the run for people."""
        return "backlog" if self.rate is None else f"{self.rate:,.0f}/s"

    @property
    def kept_up(self) -> bool:
        """Whether the worker answered as fast as events came."""
        if self.rate is None or self.events_per_s is None or self.sent_per_s is None or self.short:
            return True
        return self.events_per_s >= KEPT * self.sent_per_s


class Load(NamedTuple):
    """The load of a run: `rate` in events/s, None for a backlog, and the number of `events`."""

    rate: float | None
    events: int


class Stand(NamedTuple):
    """The setup of a run: the worker as the command line names it, the broker, a folder for logs, and the changed
    settings by dotted keys."""

    worker: str
    broker: Broker
    folder: Path
    changed: Mapping[str, str] = MappingProxyType({})

    def named(self, run: str) -> str:
        """The name for people of a run on it."""
        return ", ".join([run, *(f"trying {key} = {value}" for key, value in self.changed.items())])


class Stage(NamedTuple):
    """The parts of one run: the worker, the sender of events and the reader of outcomes."""

    child: ServedWorker
    sender: Sender
    outcomes: Outcomes


def measure(stand: Stand, asked: Load, events: Sequence[Pair]) -> Run:
    """Run one load with the first of these events: see `backlog` and `at_rate`."""
    chosen = events[: asked.events]
    return backlog(stand, chosen) if asked.rate is None else at_rate(stand, chosen, asked.rate)


def backlog(stand: Stand, events: Sequence[Pair]) -> Run:
    """Send everything, then let the worker answer it as fast as it can. Meanwhile only its metrics are read.

    Raises:
        Died: the worker ended by itself.
        Unreachable: the broker does not take or deliver the events.
    """
    load, name = os.getloadavg()[0], stand.named("backlog")

    def fill(sender: Sender) -> None:
        with step(f"{name}: sending {len(events):,} events", len(events)) as told:
            sender.send_all(events, told)

    with stand.broker.places() as places, _stage(stand, places, name, fill) as stage:
        with step(f"{name}: the worker answers {len(events):,} events", len(events)) as told:
            moments = _watch(stage.child, len(events), told)
            stage.child.drain(stand.broker.settings.drain_s)
        with step(f"{name}: reading what it has answered", len(events)) as told:
            stage.outcomes.read_to_end(told)
        counts = stage.outcomes.counts(len(events), moments[-1].figures.skipped)
        published = speed(stage.outcomes.times_ms)
    found = window(*steady(moments, len(events)), os.cpu_count() or 1)
    short = published is None or published.seconds < SHORT_S
    guess = found.events / found.seconds if found else None
    return Run(
        rate=None,
        counts=counts,
        events_per_s=guess if published is None or short else _with_skipped(published.per_s, counts),
        sent_per_s=None,
        latency=None,
        window=found,
        rss_mib=_most_memory(moments),
        load=load,
        short=short,
    )


def at_rate(stand: Stand, events: Sequence[Pair], rate: float) -> Run:
    """Send at a rate, and time every answer. Before that, the worker answers one event of each partition. Raises as
    `backlog`."""
    load, name = os.getloadavg()[0], stand.named(f"{rate:,.0f}/s")
    with stand.broker.places() as places, _stage(stand, places, name, lambda sender: None) as stage:
        hello, timed = events[: places.partitions], events[places.partitions :]
        with step(f"{name}: the worker answers its first events"):
            stage.sender.greet(hello)
            first = _settle(stage)
        with step(f"{name}: {len(timed):,} events in {len(timed) / rate:.0f} s", len(timed)) as told:
            with _no_garbage_collection():
                _follow(stage, stage.sender.send_at(rate, timed), told)
            stage.sender.finish()
            last = _settle(stage)
            stage.child.drain(stand.broker.settings.drain_s)
            stage.outcomes.read_to_end(told)
        counts = stage.outcomes.counts(stage.sender.sent, last.figures.skipped)
        sent_s = stage.sender.sent_s
        answered = speed(stage.outcomes.times_ms[len(hello) :])
        waits = waits_s(sent_s, stage.outcomes.received_s, WARM_UP_S)
    return Run(
        rate=rate,
        counts=counts,
        events_per_s=_with_skipped(answered.per_s, counts) if answered else None,
        sent_per_s=(len(sent_s) - 1) / (max(sent_s.values()) - min(sent_s.values())) if len(sent_s) > 1 else None,
        latency=latency(waits),
        window=window(first, last, os.cpu_count() or 1),
        rss_mib=_most_memory([first, last]),
        load=load,
        short=answered is None or answered.seconds < SHORT_S,
    )


def settings_of(settings: Settings, changed: Mapping[str, str], group: str, port: int) -> Settings:
    """The user's settings with the changes of a run, and with a group and an empty cache of its own."""
    values: dict[str, Any] = settings.model_dump()
    for key, value in changed.items():
        table, _, name = key.rpartition(".")
        (values[table] if table else values)[name] = value
    values["kafka"] |= {"group_id": group, "slot": "bench", "start": "earliest"}
    values["http"] |= {"host": "127.0.0.1", "port": port}
    values["cache"] |= {"secret": secrets.token_hex(16), "ttl_s": min(CACHE_TTL_S, settings.cache.ttl_s)}
    values["log"] |= {"format": "json"}
    return Settings(**values)


@contextmanager
def _stage(stand: Stand, places: Places, name: str, before: Callable[[Sender], None]) -> Iterator[Stage]:
    """A sender that has run `before`, a reader, and the worker, started last and ready."""
    settings = stand.broker.settings
    sender = Sender(settings, places)
    before(sender)
    port = free_port()
    told = job(stand.worker, places.source, places.target, settings_of(settings, stand.changed, places.group, port))
    with closing(Outcomes(settings, places)) as outcomes:
        child = ServedWorker(stand.worker, told, port, stand.folder / f"{places.group}.log")
        try:
            with step(f"{name}: the worker starts"):
                child.until_ready()
            yield Stage(child, sender, outcomes)
        finally:
            child.kill()


def _watch(child: ServedWorker, wanted: int, told: Callable[[int], None]) -> list[Moment]:
    """Look at the worker until it has answered all, or has not progressed for STALL_S."""
    moments: list[Moment] = []
    moved = time.monotonic()
    while not moments or moments[-1].figures.outcomes < wanted:
        if (now := child.look()) is not None:
            more = now.figures.outcomes - (moments[-1].figures.outcomes if moments else 0)
            moments.append(now)
            told(more)
            moved = time.monotonic() if more else moved
        if time.monotonic() - moved > STALL_S:
            if not moments:
                raise _silent(child)
            break
        time.sleep(LOOK_S)
    return moments


def _follow(stage: Stage, sending: threading.Thread, told: Callable[[int], None]) -> None:
    """Read while events are sent, until nothing more comes, and do nothing else: it would count as latency."""
    quiet_at = time.monotonic() + QUIET_S
    while sending.is_alive() or time.monotonic() < quiet_at:
        if count := stage.outcomes.read(0.05):
            quiet_at = time.monotonic() + QUIET_S
            told(count)


def _settle(stage: Stage) -> Moment:
    """Wait until every sent event has its outcome, or nothing has moved for STALL_S; return the worker's state."""
    moved, seen = time.monotonic(), -1
    while True:
        now = stage.child.look()
        while stage.outcomes.read(LOOK_S):
            moved = time.monotonic()
        if now is not None:
            if now.figures.outcomes > seen:
                moved, seen = time.monotonic(), now.figures.outcomes
            if seen >= stage.sender.sent or time.monotonic() - moved > STALL_S:
                return now
        elif time.monotonic() - moved > STALL_S:
            raise _silent(stage.child)


def _silent(child: ServedWorker) -> Died:
    return Died(f"{child.name} has not answered at /metrics for {STALL_S:.0f} s; does it hang?")


def _with_skipped(published_per_s: float, counts: Counts) -> float:
    """Events a second with the skipped ones, which have no timestamp because nothing is published for them."""
    published = counts.predicted + counts.dead
    return published_per_s * (published + counts.skipped) / published


def _most_memory(moments: Sequence[Moment]) -> float | None:
    return max((moment.rss_mib for moment in moments if moment.rss_mib is not None), default=None)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off: its walk over all the records would count as latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
