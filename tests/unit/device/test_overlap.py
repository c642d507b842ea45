"""The runner's thread: the next batch is begun while one computes. The GPU is a device that the test ends batches of,
or a simulated one."""

from __future__ import annotations

import queue
import threading
import time

import msgspec
import pytest
import torch

from streamer.clock import Deadline, SystemClock
from streamer.device import devices
from streamer.device.devices import CudaDevice
from streamer.device.runner import Inference, ThreadRunner
from streamer.errors import Reason, Temporary
from streamer.records import Rejected
from streamer.slices import BatchResult
from tests.cuda_simulation import Gpu
from tests.echo import Echo
from tests.unit.device.test_runner import batch, events


class Slow:
    """A device whose batches are done when the test says so."""

    def __init__(self) -> None:
        self.launched: queue.Queue[Computing] = queue.Queue()

    def launch(self, predict, tensors):
        computing = Computing(predict(tensors))
        self.launched.put(computing)
        return computing

    def record(self, predict, tensors):
        return False

    def next(self) -> Computing:
        return self.launched.get(timeout=5)

    def idle(self) -> bool:
        """Nothing more is launched, as far as can be waited for."""
        try:
            self.launched.get(timeout=0.05)
        except queue.Empty:
            return True
        return False


class Computing:
    """`done` ends it; `error` is what it ends with."""

    def __init__(self, outputs):
        self.done = threading.Event()
        self.error: Exception | None = None
        self._outputs = outputs

    def ready(self):
        return self.done.is_set()

    def wait(self):
        assert self.done.wait(5)
        if self.error:
            raise self.error
        return self._outputs

    def seconds(self):
        return 7.0


def answers(runner: ThreadRunner, count: int) -> list[BatchResult]:
    """The next results, in the order in which they come."""
    results: list[BatchResult] = []
    while len(results) < count:
        found = runner.finished(5.0)
        assert found
        results += found
    return results


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def overlapping(slow):
    made = ThreadRunner(Inference(Echo(), slow, 1000))
    made.start()
    yield made
    made.close(Deadline(SystemClock(), 5))


def test_the_next_batch_begins_while_one_computes(slow, overlapping):
    first, second, third = batch(3), batch(5), batch(1)
    overlapping.submit(first)
    one = slow.next()
    overlapping.submit(second)
    two = slow.next()  # although the first is not done
    two.done.set()
    assert overlapping.finished(0.05) == []  # answers come in the order of submission
    one.done.set()
    assert [result.batch for result in answers(overlapping, 2)] == [first, second]
    overlapping.submit(third)
    slow.next().done.set()
    (result,) = answers(overlapping, 1)
    assert result.outcomes == [b'{"double":0.0}']


def test_never_more_than_two_batches_are_begun(slow, overlapping):
    overlapping.submit(batch(1))
    overlapping.submit(batch(1))
    one, two = slow.next(), slow.next()
    one.done.set()
    overlapping.finished(5.0)
    overlapping.submit(batch(1))
    three = slow.next()
    assert slow.idle()
    two.done.set()
    three.done.set()


def test_the_time_of_a_batch_is_the_devices_and_not_the_wait_for_another(slow, overlapping):
    overlapping.submit(batch(1))
    overlapping.submit(batch(1))
    one, two = slow.next(), slow.next()
    time.sleep(0.2)
    one.done.set()
    two.done.set()
    assert [result.seconds for result in answers(overlapping, 2)] == pytest.approx([7.0, 7.0], abs=0.15)


def test_a_failure_of_one_batch_does_not_touch_the_other(slow, overlapping):
    overlapping.submit(batch(2))
    one = slow.next()
    broken = batch(2, at_1="raise")
    overlapping.submit(broken)  # fails while the first computes, and is halved after it
    assert slow.idle()
    one.done.set()
    slow.next().done.set()
    results = answers(overlapping, 2)
    assert [type(outcome) for outcome in results[0].outcomes] == [bytes, bytes]
    assert [type(outcome) for outcome in results[1].outcomes] == [bytes, Rejected]


def test_a_batch_that_fails_as_it_ends_is_halved_behind_the_next(slow, overlapping):
    overlapping.submit(batch(2))
    overlapping.submit(batch(2))
    one, two = slow.next(), slow.next()
    one.error = torch.OutOfMemoryError("x")
    one.done.set()
    two.done.set()
    slow.next().done.set()
    slow.next().done.set()
    results = answers(overlapping, 2)
    assert all(isinstance(outcome, bytes) for result in results for outcome in result.outcomes)


def test_a_device_that_breaks_under_a_batch_is_told_to_the_owner(slow, overlapping):
    overlapping.submit(batch(1))
    computing = slow.next()
    computing.error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    computing.done.set()
    with pytest.raises(Temporary, match="start the process again"):
        overlapping.finished(5.0)


def test_a_stop_waits_for_the_running_batch_and_not_for_more(slow, overlapping):
    overlapping.submit(batch(1))
    computing = slow.next()
    threading.Timer(0.1, computing.done.set).start()
    overlapping.close(Deadline(SystemClock(), 5))
    assert len(overlapping.finished(5.0)) == 1


def test_on_the_cpu_a_batch_is_answered_before_the_next_begins():
    turns = []

    class Noted(Echo):
        def encode(self, events, features):
            turns.append("encode")
            return super().encode(events, features)

        def decode(self, events, outputs):
            turns.append("decode")
            return super().decode(events, outputs)

    runner = ThreadRunner(Inference(Noted(), torch.device("cpu"), 1000))
    runner.submit(batch(1))
    runner.submit(batch(1))
    runner.start()
    while runner.out():
        runner.finished(5.0)
    assert turns == ["encode", "decode"] * 2
    runner.close(Deadline(SystemClock(), 5))


def test_the_stages_add_up_to_the_time_of_the_batches():
    inference = Inference(Echo(), torch.device("cpu"), 1000)
    pending = inference.begin(events(100))
    assert pending.ready()
    inference.end(pending)
    assert all(seconds > 0 for seconds in inference.stopwatch.seconds.values())
    assert pending.seconds == pytest.approx(sum(inference.stopwatch.seconds.values()), rel=0.5)


@pytest.mark.parametrize("seed", range(4))
def test_on_a_gpu_every_event_gets_its_own_answer(seed, monkeypatch):
    monkeypatch.setattr(devices, "cuda", Gpu(seed))
    monkeypatch.setattr(devices, "pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    worker = Echo()
    device = CudaDevice(torch.device("cpu"))
    for rows in (4, 1):
        assert device.record(worker.predict, worker.encode([worker.example] * rows, [{}] * rows))
    inference = Inference(worker, device, 1000)
    runner = ThreadRunner(inference)
    runner.start()
    batches = [batch(n % 6 + 1, at_2="raise", at_3="nan") for n in range(12)]
    results, left = [], list(batches)
    while len(results) < len(batches):
        while left and runner.out() < runner.slots:
            runner.submit(left.pop(0))
        results += runner.finished(5.0)
    runner.close(Deadline(SystemClock(), 5))
    assert [result.batch for result in results] == batches
    for result in results:
        reasons = [getattr(outcome, "reason", None) for outcome in result.outcomes]
        assert reasons == [None, None, Reason.MODEL_ERROR, Reason.NOT_FINITE, None, None][: len(reasons)]
        doubles = [msgspec.json.decode(each)["double"] for each in result.outcomes if type(each) is bytes]
        assert doubles == [0.0, 2.0, 8.0, 10.0][: len(doubles)]


def test_a_failure_on_a_gpu_names_its_line_in_the_worker(monkeypatch):
    monkeypatch.setattr(devices, "cuda", Gpu(0))
    monkeypatch.setattr(devices, "pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    error = torch.AcceleratorError("CUDA error: invalid argument")
    error.error_code = 1

    class Odd(Echo):
        def predict(self, tensors):
            raise error

    (rejected,) = Inference(Odd(), CudaDevice(torch.device("cpu")), 1000).run(events(1))
    line = Odd.predict.__code__.co_firstlineno + 1
    assert rejected.message == f"the worker raised RuntimeError in predict, line {line} of test_overlap.py"
