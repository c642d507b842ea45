"""The real GPU: what `tests/unit/device/test_devices.py` shows on a simulated one. Skipped where there is none."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest
import torch

from streamer.clock import Deadline, SystemClock
from streamer.device.devices import CudaDevice, bound_memory
from streamer.device.graphs import worth_recording
from streamer.device.runner import Inference, ThreadRunner
from streamer.errors import Reason
from streamer.records import BatchPolicy
from streamer.slices import Batch, BatchResult
from streamer.worker import Features, Tensors
from tests.echo import Echo, Ping, ping
from tests.unit.device.test_runner import batch, events

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch sees none here")
GPU = torch.device("cuda", 0)
MIB = 1 << 20


@pytest.fixture
def device() -> CudaDevice:
    return CudaDevice(GPU)


@pytest.fixture
def whole_memory() -> Iterator[None]:
    """The next test has all the memory again."""
    yield
    bound_memory(GPU, 1.0)
    torch.cuda.empty_cache()


class Heavy(Echo):
    """Doubles numbers after much computing, so that batches overlap; writes into its inputs, as a model may."""

    graphs = True

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        torch.manual_seed(1)
        self.weights = torch.randn(width, width, device=GPU) / width**0.5

    def predict(self, tensors: Tensors) -> Tensors:
        noise = self.weights
        for _ in range(self.steps):
            noise = noise @ self.weights
        silent = (noise.sum() * 0).nan_to_num()
        return {"double": tensors["numbers"].mul_(2) + tensors["bonus"] + silent}

    def sample(self, random: object, number: int) -> Ping:
        return ping(number)


def serve(inference: Inference, batches: Sequence[Batch]) -> list[BatchResult]:
    runner = ThreadRunner(inference)
    runner.start()
    results: list[BatchResult] = []
    left = list(batches)
    while len(results) < len(batches):
        while left and runner.out() < runner.slots:
            runner.submit(left.pop(0))
        results += runner.finished(10.0)
    runner.close(Deadline(SystemClock(), 5))
    return results


def doubles(result: BatchResult) -> list[float]:
    answers = [outcome for outcome in result.outcomes if isinstance(outcome, bytes)]
    return [msgspec.json.decode(answer)["double"] for answer in answers]


@pytest.mark.parametrize("graphs", [False, True])
def test_batches_that_overlap_are_answered_in_order(device: CudaDevice, graphs: bool) -> None:
    worker = Heavy(2048, 20)
    inference = Inference(worker, device, 1000)
    if graphs:
        assert inference.record(worth_recording(worker, BatchPolicy(items_max=64))) == 7
    batches = [batch(number % 64 + 1) for number in range(100)]
    results = serve(inference, batches)
    assert [result.batch for result in results] == batches
    for result in results:
        assert doubles(result) == [2.0 * number for number in range(len(result.batch))]


def test_a_batch_begins_while_the_one_before_computes(device: CudaDevice) -> None:
    inference = Inference(Heavy(4096, 300), device, 1000)  # about a second; CUDA itself queues a thousand kernels
    inference.run(events(2))
    first = inference.begin(events(2))
    second = inference.begin(events(2))
    assert not first.ready()
    inference.end(first)
    waiting = time.perf_counter()
    inference.end(second)
    waited = time.perf_counter() - waiting
    assert second.seconds == pytest.approx(first.seconds, rel=0.3)  # without the wait for the first
    assert waited == pytest.approx(second.seconds, rel=0.3)


def test_recordings_give_the_answers_of_plain_calls(device: CudaDevice) -> None:
    torch.manual_seed(2)
    layers = torch.nn.Sequential(
        torch.nn.Embedding(100, 64), torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    )
    layers = layers.eval().to(GPU)

    def predict(tensors: Tensors) -> Tensors:
        return {"mean": layers(tensors["tokens"]).mean(1), "best": layers(tensors["tokens"]).sum(1).argmax(1)}

    def tokens(rows: int, length: int) -> Tensors:
        return {"tokens": torch.randint(0, 100, (rows, length))}

    for rows, length in ((16, 24), (16, 8), (4, 24), (4, 8), (1, 24)):
        assert device.record(predict, tokens(rows, length))
    batches = [tokens(number % 17 + 1, (8, 24, 10)[number % 3]) for number in range(60)]
    plain = CudaDevice(GPU)
    launched = [device.launch(predict, inputs) for inputs in batches]  # all of them at once
    for flying, inputs in zip(launched, batches, strict=True):
        found, expected = flying.wait(), plain.launch(predict, inputs).wait()
        torch.testing.assert_close(found["mean"], expected["mean"], rtol=1e-4, atol=1e-4)
        assert (found["best"] == expected["best"]).float().mean() > 0.9  # near ties may turn


def test_what_is_staged_is_not_overwritten_early(device: CudaDevice) -> None:
    def predict(tensors: Tensors) -> Tensors:
        torch.cuda._sleep(2_000_000)  # about a millisecond: copies run ahead of it
        return {"same": tensors["numbers"] + 0}

    batches = [{"numbers": torch.full((1 << 18,), float(number))} for number in range(40)]
    launched = [device.launch(predict, inputs) for inputs in batches]
    for number, flying in enumerate(launched):
        assert flying.wait()["same"].unique().tolist() == [float(number)]


def test_a_model_that_cannot_be_recorded_is_called_plainly(device: CudaDevice) -> None:
    def curious(tensors: Tensors) -> Tensors:
        return {"half": tensors["numbers"] / (2 if tensors["numbers"].max().item() > 1 else 1)}

    numbers = {"numbers": torch.tensor([1.0, 2.0])}
    assert not device.record(curious, numbers)
    for _ in range(3):
        assert device.launch(curious, numbers).wait()["half"].tolist() == [0.5, 1.0]


class Hungry(Echo):
    """Takes 64 MiB an event."""

    def predict(self, tensors: Tensors) -> Tensors:
        room = torch.zeros(len(tensors["numbers"]), 16 * MIB, device=GPU)
        return {"double": tensors["numbers"] * 2 + room.sum(1)}


@pytest.mark.usefixtures("whole_memory")
def test_a_batch_beyond_the_bound_of_memory_is_halved() -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    most = torch.cuda.memory_reserved(GPU) + 500 * MIB
    bound_memory(GPU, most / total)
    worker = Hungry()
    (result,) = serve(Inference(worker, GPU, 1000), [batch(16)])
    assert doubles(result) == [2.0 * number for number in range(16)]
    assert {len(run) for run in worker.runs} >= {16, 8, 4}
    assert torch.cuda.memory_reserved(GPU) <= most


@pytest.mark.usefixtures("whole_memory")
def test_an_event_that_alone_does_not_fit_is_rejected_and_the_next_is_answered() -> None:
    class Greedy(Echo):
        def encode(self, events: Sequence[Ping], features: Sequence[Features]) -> Tensors:
            return super().encode(events, features) | {"greedy": torch.tensor([e.number == 1 for e in events])}

        def predict(self, tensors: Tensors) -> Tensors:
            if tensors["greedy"].any():
                torch.empty(10**15, device=GPU)
            return super().predict(tensors)

    (result,) = serve(Inference(Greedy(), GPU, 1000), [batch(4)])
    assert [getattr(outcome, "reason", None) for outcome in result.outcomes] == [
        None,
        Reason.OUT_OF_MEMORY,
        None,
        None,
    ]


BROKEN = """
import torch
from streamer.errors import Temporary
from streamer.device.runner import Inference
from tests.echo import Echo
from tests.unit.device.test_runner import events

class Broken(Echo):
    def predict(self, tensors):
        return {"double": torch.zeros(2, device="cuda")[torch.full((len(tensors["numbers"]),), 99, device="cuda")]}

try:
    Inference(Broken(), torch.device("cuda", 0), 1000).run(events(2))
except Temporary as error:
    print("temporary:", error, flush=True)
"""


def test_a_broken_device_ends_the_process_and_makes_no_dead_letters() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=False)
    assert "temporary: the device failed" in done.stdout, done.stderr[-2000:]
