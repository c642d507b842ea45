"""Which runs of a model are recorded, and which recording answers a batch. Nothing here knows how a run is recorded.

To launch a small kernel takes a GPU longer than to compute it. A recorded run is launched as a whole, but only in the
shape of the recording: so a batch is filled up with rows to the next number that has a recording.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle, islice, zip_longest
from random import Random
from typing import Any, NamedTuple

import structlog
import torch

from schemas import Event
from streamer.records import BatchPolicy
from streamer.worker import Tensors, Worker

log = structlog.get_logger(__name__)

GRAPHS_MAX = 128
"""Most recordings: each takes tens of milliseconds to make, and a few MB of the GPU for a dozen layers."""
SAMPLES = 512
"""How many sampled events show which lengths there are."""

Predict = Callable[[Tensors], Tensors]
Replay = Callable[[torch.Tensor], Tensors]
"""Run a recording on a block of inputs on the device; its outputs are overwritten by the next replay of any."""
Capture = Callable[[Predict, Tensors], Replay]


class Recorded(NamedTuple):
    """A run for exactly so many rows."""

    rows: int
    replay: Replay


class Graphs:
    """Recorded runs by the shape of their inputs. All are made before the first event, `most` at most: a recording
    stops everything for tens of milliseconds. A shape without one is computed by a plain call."""

    def __init__(self, capture: Capture, most: int = GRAPHS_MAX) -> None:
        self._capture = capture
        self._left = most
        self._runs: dict[object, list[Recorded]] = {}

    def record(self, predict: Predict, tensors: Tensors) -> bool:
        """Record a run of this shape, unless there is one. Returns whether there is one now. The first failure ends all
        recording: a model that cannot be recorded in one shape cannot in others, and when memory ran out the rest of it
        is needed."""
        rows, kind = rows_and_kind(tensors)
        if rows and (known := self.find(tensors)) and known.rows == rows:
            return True
        if not rows or not self._left:
            return False
        try:
            replay = self._capture(predict, tensors)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            self._left = 0
            why = str(error).strip().partition("\n")[0]
            log.warning("the model cannot be recorded; it is called plainly", rows=rows, error=why)
            return False
        runs = self._runs.setdefault(kind, [])
        runs.insert(bisect_left(runs, rows, key=_rows), Recorded(rows, replay))
        self._left -= 1
        return True

    def find(self, tensors: Tensors) -> Recorded | None:
        """The smallest recording with enough rows for a batch."""
        if not self._runs:
            return None
        rows, kind = rows_and_kind(tensors)
        runs = self._runs.get(kind, [])
        at = bisect_left(runs, rows, key=_rows)
        return runs[at] if rows and at < len(runs) else None


def cut(outputs: Tensors, inputs: Tensors) -> Tensors:
    """The outputs without the rows that the inputs do not have."""
    rows = next(iter(inputs.values())).shape[0]
    return {name: output[:rows] for name, output in outputs.items()}


def worth_recording(worker: Worker[Any, Any], policy: BatchPolicy) -> Iterator[list[Event]]:
    """Batches of the worker's samples for which a recording is useful, the most useful first; none for a worker
    that does not want them."""
    if not worker.graphs:
        return
    random = Random(0)  # noqa: S311 (for samples, not for secrets)
    by_bound: dict[int, list[Event]] = {}
    for event in [worker.example, *(worker.sample(random, number) for number in range(SAMPLES))]:
        by_bound.setdefault(policy.bound(worker.cost(event)), []).append(event)
    for bound, rows in plan(by_bound, policy):
        yield list(islice(cycle(by_bound[bound]), rows))


def plan(bounds: Iterable[int], policy: BatchPolicy) -> Iterator[tuple[int, int]]:
    """Which batches are worth recording, the most useful first: length bound and rows.

    First full batches (largest first, so that one pool of memory serves all). Then, by growing powers of two, the small
    batches of a runner with little to do: a batch is padded to at most twice its rows.
    """
    fulls = {bound: policy.items_of(bound) for bound in sorted(bounds, reverse=True)}
    yield from fulls.items()
    ladders = [[(bound, 1 << n) for n in range((full - 1).bit_length())] for bound, full in fulls.items()]
    yield from (step for step in chain.from_iterable(zip_longest(*ladders)) if step)


def rows_and_kind(tensors: Tensors) -> tuple[int, object]:
    """The rows of a batch, 0 when its tensors do not agree, and everything else that fixes a recording."""
    counts = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors.values()}
    kind = tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in tensors.items())
    return (counts.pop() if len(counts) == 1 else 0), kind


def _rows(recorded: Recorded) -> int:
    return recorded.rows
