"""Who goes to the device: batches, and suspects with nothing else on it."""

from streamer.engine.attempts import Attempts, MemoryStore
from streamer.engine.batcher import Batcher, CostModel
from streamer.engine.dispatch import Dispatch
from streamer.records import BatchPolicy
from streamer.slices import Batch, BatchResult
from streamer.testing import ManualClock
from tests.slices import offsets, rows
from tests.unit.engine.test_attempts import die


class Slots:
    """A runner that computes when it is told."""

    slots = 2

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def out(self) -> int:
        return len(self.batches)

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)

    def finished(self, timeout_s: float) -> list[BatchResult]:
        batch = self.batches.pop(0)
        return [BatchResult(batch, [b"{}"] * len(batch), 0.01)]

    def on_device(self) -> list[list[int]]:
        return [offsets(batch.rows) for batch in self.batches]


def test_nothing_follows_a_suspect_before_it_has_come_back():
    """The last of them was followed by a full batch, whose death would have been counted as its own."""
    store, runner, clock = MemoryStore(), Slots(), ManualClock()
    die(store, rows(1, 2))
    attempts: Attempts = die(store, rows(1, 2))
    dispatch = Dispatch(Batcher(BatchPolicy(items_max=4), CostModel()), runner, attempts, clock)
    dispatch.add([rows(*range(12))], clock.now())
    seen = []
    while len(dispatch) or runner.out():
        dispatch.submit()
        seen.append(runner.on_device())
        dispatch.finished(0)
    assert seen == [[[1]], [[2]], [[0, 3, 4, 5], [6, 7, 8, 9]], [[6, 7, 8, 9]], [[10, 11]]]
