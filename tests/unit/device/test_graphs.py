"""Which batches get a recording, and which recording answers a batch: a fake stands for the GPU."""

from __future__ import annotations

import pytest
import torch
from structlog.testing import capture_logs

from streamer.app import record_graphs
from streamer.device.graphs import Graphs, cut, plan, worth_recording
from streamer.device.runner import Inference
from streamer.records import BatchPolicy
from tests.echo import Echo, ping


def batch(rows: int, length: int = 3, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"tokens": torch.arange(rows * length).reshape(rows, length), **more}


class Recorder:
    """Notes what is recorded; a replay says which recording it is of."""

    def __init__(self, error: Exception | None = None) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.error = error

    def capture(self, predict, tensors):
        self.recorded.append(tuple(tensors["tokens"].shape))
        if self.error:
            raise self.error
        return lambda block: {"shape": torch.tensor(tensors["tokens"].shape)}


def predict(tensors):
    raise AssertionError("only a recording calls it")


def recorded(*shapes: tuple[int, int], most: int = 99) -> tuple[Graphs, Recorder]:
    recorder = Recorder()
    graphs = Graphs(recorder.capture, most)
    for rows, length in shapes:
        graphs.record(predict, batch(rows, length))
    return graphs, recorder


def test_the_smallest_recording_with_rows_enough_answers():
    graphs, _ = recorded((8, 3), (1, 3), (4, 3))
    assert [graphs.find(batch(rows)).rows for rows in range(1, 9)] == [1, 4, 4, 4, 8, 8, 8, 8]
    assert graphs.find(batch(3)).replay(torch.empty(0))["shape"].tolist() == [4, 3]


@pytest.mark.parametrize(
    "other",
    [
        batch(9),
        batch(4, length=2),
        {"tokens": batch(4)["tokens"].float()},
        {"words": batch(4)["tokens"]},
        batch(4, more=torch.zeros(4)),
        {"tokens": torch.tensor(1)},
        {},
    ],
)
def test_a_batch_of_another_shape_has_none(other):
    graphs, _ = recorded((8, 3))
    assert graphs.find(other) is None


def test_tensors_that_do_not_agree_on_the_rows_are_not_recorded():
    graphs, recorder = recorded()
    assert not graphs.record(predict, batch(2, more=torch.zeros(3)))
    assert not graphs.record(predict, batch(2, more=torch.tensor(1.0)))
    assert recorder.recorded == []


def test_a_shape_is_recorded_once():
    graphs, recorder = recorded((4, 3))
    assert graphs.record(predict, batch(4))
    assert graphs.record(predict, batch(2))  # fewer rows are worth their own
    assert recorder.recorded == [(4, 3), (2, 3)]


def test_there_are_no_more_than_asked_for():
    graphs, recorder = recorded((1, 3), (2, 3), (4, 3), most=2)
    assert recorder.recorded == [(1, 3), (2, 3)]
    assert graphs.find(batch(3)) is None
    assert graphs.record(predict, batch(2))


def test_the_first_that_cannot_be_recorded_is_the_last_and_is_told_once():
    recorder = Recorder(RuntimeError("operation not permitted\nwith a trace"))
    graphs = Graphs(recorder.capture)
    with capture_logs() as lines:
        assert [graphs.record(predict, batch(rows)) for rows in (4, 2, 1)] == [False, False, False]
    assert recorder.recorded == [(4, 3)]
    assert [(line["log_level"], line["error"]) for line in lines] == [("warning", "operation not permitted")]
    assert graphs.find(batch(4)) is None


def test_a_broken_device_is_not_taken_for_a_model_that_cannot_be_recorded():
    with pytest.raises(torch.AcceleratorError):
        Graphs(Recorder(torch.AcceleratorError("x")).capture).record(predict, batch(1))


def test_rows_that_were_added_are_cut_off():
    outputs = {"score": torch.arange(8), "label": torch.arange(16).reshape(8, 2)}
    assert {name: tuple(kept.shape) for name, kept in cut(outputs, batch(5)).items()} == {
        "score": (5,),
        "label": (5, 2),
    }


def test_full_batches_are_recorded_first_and_then_small_ones():
    policy = BatchPolicy(items_max=6, cost_max=40)
    assert list(plan([4, 20], policy)) == [(20, 2), (4, 6), (20, 1), (4, 1), (4, 2), (4, 4)]
    assert list(plan([1000], policy)) == [(1000, 1)]


def test_a_padded_batch_has_at_most_twice_its_rows():
    policy = BatchPolicy(items_max=100)
    rows = sorted(rows for _, rows in plan([1], policy))
    assert all(next(each for each in rows if each >= n) < 2 * n for n in range(1, 101))


class Lengths(Echo):
    """Its samples have one to nine words, its example one."""

    graphs = True

    def sample(self, random, number):
        return ping(number, length=number % 9 + 1)


class Counting:
    """A device that has room for so many recordings."""

    def __init__(self, most: int) -> None:
        self.rows: list[int] = []
        self._most = most

    def record(self, predict, tensors):
        self.rows.append(len(tensors["numbers"]))
        return len(self.rows) <= self._most

    def launch(self, predict, tensors):
        raise AssertionError("nothing is launched")


POLICY = BatchPolicy(items_max=3, buckets=(4, 8))


def test_the_samples_show_which_lengths_there_are():
    batches = list(worth_recording(Lengths(), POLICY))
    assert [(max(event.length for event in batch), len(batch)) for batch in batches] == [
        *[(9, 3), (7, 3), (2, 3)],  # different texts of each length: 9 is longer than all bounds
        *[(9, 1), (5, 1), (1, 1)],
        *[(9, 2), (6, 2), (1, 2)],
    ]


@pytest.mark.parametrize(("most", "recorded"), [(0, 0), (5, 5), (99, 9)])
def test_recording_ends_when_the_device_has_enough(most, recorded):
    device = Counting(most)
    assert record_graphs(Lengths(), Inference(Lengths(), device, 1000), POLICY) == recorded
    assert device.rows == [3, 3, 3, 1, 1, 1, 2, 2, 2][: recorded + 1]


def test_a_worker_that_does_not_want_recordings_gets_none():
    device = Counting(99)
    assert record_graphs(Echo(), Inference(Echo(), device, 1000), POLICY) == 0
    assert device.rows == []


def test_the_cpu_records_nothing():
    assert record_graphs(Lengths(), Inference(Lengths(), torch.device("cpu"), 1000), POLICY) == 0
