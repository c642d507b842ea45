"""The worker without Kafka: encode, predict and decode of batches of growing size, and what a batch costs.

Events are decoded and batched as in the engine: a batch holds events of similar length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import msgspec
import torch

from streamer import app
from streamer.bench.events import Event
from streamer.device.runner import Inference
from streamer.engine.batcher import CostModel
from streamer.errors import BadData
from streamer.records import Rejected
from streamer.settings import Settings
from streamer.wire.codec import ENVELOPE_BYTES_MAX
from streamer.wire.reading import EventReader
from streamer.worker import Worker

SIZES = tuple(2**power for power in range(11))
SIZE_S = 0.4
"""How long each size is measured; the eleven sizes take some five seconds."""
BATCH_S_MAX = 2.0
"""Sizes whose batches would take longer than this are not tried."""
PLACES_MAX = 16
"""How many batches of one size are measured, with events of evenly spread lengths from short to long."""
NEAR_BEST = 0.95
COST_VARIES = 1.5
"""Costs vary when the upper quartile is this many times the lower one."""


class Point(msgspec.Struct, frozen=True):
    """Batches of one size: their padded cost and their time, on average."""

    items: int
    cost: float
    ms: float
    events_per_s: float


class Weighed(NamedTuple):
    """An event as the worker's methods get it, and its cost."""

    event: Any
    cost: int


class Curve(msgspec.Struct, frozen=True):
    """The cost of batches: measured, and fitted as `fixed_ms + us_per_cost * cost` up to the best size.

    `knee` is the smallest size within 5 % of the best rate. `varied` says that events differ in cost; `rejected` is
    the share of the tried events that the worker rejects. `stopped` says that larger sizes would take too long.
    """

    points: Sequence[Point]
    fixed_ms: float
    us_per_cost: float
    varied: bool
    rejected: float
    stopped: bool

    @property
    def best(self) -> Point:
        """The size with the best rate."""
        return max(self.points, key=lambda point: point.events_per_s)

    @property
    def knee(self) -> Point:
        """The smallest size whose rate is within 5 % of the best."""
        enough = NEAR_BEST * self.best.events_per_s
        return next(point for point in self.points if point.events_per_s >= enough)


def load(worker: Worker[Any, Any], settings: Settings, device: torch.device) -> Inference:
    """The worker on its device, warmed up as in `streamer run`.

    Raises:
        BadConfig: the model is missing or damaged, or does not answer the worker's example.
    """
    torch.set_num_threads(1)
    app.load(settings, worker, device)
    inference = Inference(worker, device, settings.limits.record_bytes_max - ENVELOPE_BYTES_MAX)
    app.warm_up(worker, inference)
    if device.type == "cuda":
        app.record_graphs(worker, inference, app.batch_policy(settings))
    return inference


def measure(
    worker: Worker[Any, Any], inference: Inference, events: Sequence[Event], told: Callable[[int], None]
) -> Curve:
    """Run batches of each size for SIZE_S; `told` is called after each size.

    Raises:
        BadData: the worker takes none of the events.
    """
    weighed = sorted(_weighed(worker, events), key=lambda one: one.cost)
    if not weighed:
        raise BadData("the worker takes none of the events: all are broken or declined by accepts()")
    rejected = fmean(isinstance(outcome, Rejected) for outcome in inference.run(_events(weighed[: SIZES[-1]])))
    points: list[Point] = []
    times: list[tuple[int, int, float]] = []
    for size in SIZES:
        if points and 2 * points[-1].ms > BATCH_S_MAX * 1000:
            break
        batches = list(_batches(weighed, size))
        seconds = _seconds(inference, batches)
        times += [(size, _cost(batch), took) for batch, took in zip(batches, seconds, strict=True)]
        points.append(Point(size, fmean(map(_cost, batches)), fmean(seconds) * 1000, size / fmean(seconds)))
        told(1)
    costs = _fitted(times, max(points, key=lambda point: point.events_per_s).items)
    long, short = weighed[len(weighed) * 3 // 4].cost, weighed[len(weighed) // 4].cost
    return Curve(
        points=points,
        fixed_ms=costs.fixed_s * 1000,
        us_per_cost=costs.per_cost_s * 1e6,
        varied=long >= COST_VARIES * short,
        rejected=rejected,
        stopped=len(points) < len(SIZES),
    )


def _fitted(times: Sequence[tuple[int, int, float]], most: int) -> CostModel:
    """Least squares over batches of up to `most` items: larger batches are slower and should not be used."""
    costs = CostModel(memory=1.0)
    for size, cost, seconds in times:
        if size <= most:
            costs.observe(size, cost, seconds)
    return costs


def _seconds(inference: Inference, batches: Sequence[Sequence[Weighed]]) -> list[float]:
    """The shortest time of each batch, because other programs can only add to it. The first run of a size does not
    count: it may compile."""
    times: list[list[float]] = [[] for _ in batches]
    inference.run(_events(batches[0]))
    end = time.perf_counter() + SIZE_S
    while not times[0] or time.perf_counter() < end:
        for batch, taken in zip(batches, times, strict=True):
            events = _events(batch)
            began = time.perf_counter()
            inference.run(events)
            taken.append(time.perf_counter() - began)
    return list(map(min, times))


def _batches(weighed: Sequence[Weighed], size: int) -> Iterator[Sequence[Weighed]]:
    """Batches of events of similar cost, from the cheapest to the most expensive."""
    pool = list(weighed) * (1 + size // len(weighed))
    pool.sort(key=lambda one: one.cost)
    last, places = len(pool) - size, min(PLACES_MAX, max(2, len(pool) // size))
    for start in sorted({last * place // (places - 1) for place in range(places)}):
        yield pool[start : start + size]


def _cost(batch: Sequence[Weighed]) -> int:
    return len(batch) * max(one.cost for one in batch)


def _events(batch: Sequence[Weighed]) -> list[Any]:
    return [one.event for one in batch]


def _weighed(worker: Worker[Any, Any], events: Sequence[Event]) -> list[Weighed]:
    """The events that the worker takes, as its methods get them."""
    reader = EventReader(worker.event, max(len(event.value) for event in events))
    read, _ = reader.decode([event.key for event in events], [event.value for event in events])
    return [Weighed(event, cost) for event in read if event is not None and (cost := _cost_of(worker, event))]


def _cost_of(worker: Worker[Any, Any], event: Any) -> int:
    """The event's cost; 0 for one that the worker does not take."""
    try:
        return max(1, int(worker.cost(event))) if worker.accepts(event) else 0
    except Exception:  # in production, a dead letter
        return 0
