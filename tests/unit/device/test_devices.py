"""Devices. The GPU is simulated: its work is done late, and in many orders. `tests/gpu` has the real one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from streamer.device import devices
from streamer.device.devices import CpuDevice, CudaDevice, Layout, bound_memory, open_device
from tests.cuda_simulation import Gpu

SEEDS = range(5)
CPU = torch.device("cpu")


@pytest.fixture(params=SEEDS)
def gpu(request, monkeypatch):
    simulated = Gpu(request.param)
    monkeypatch.setattr(devices, "cuda", simulated)
    monkeypatch.setattr(devices, "pinned", lambda size: torch.full((size,), 0x7F, dtype=torch.uint8))
    return simulated


class Reader(nn.Module):
    """A model of texts: int64 (rows, length), 0 = padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.out = nn.Embedding(50, 8), nn.Linear(8, 3)

    def predict(self, tensors):
        known = tensors["words"] != 0
        states = (self.words(tensors["words"]) * known.unsqueeze(2)).sum(1) + tensors["bonus"].unsqueeze(1)
        return {"share": self.out(states).softmax(1), "length": known.sum(1)}


def texts(rows: int, seed: int, length: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"bonus": torch.rand(rows), "words": torch.randint(0, 50, (rows, length))}


def equal(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def in_turn(device, predict, batches):
    """Answers of batches of which two are always on their way."""
    answers, flying = [], []
    for tensors in batches:
        flying.append(device.launch(predict, tensors))
        if len(flying) == 2:
            answers.append({name: tensor.clone() for name, tensor in flying.pop(0).wait().items()})
    return answers + [launched.wait() for launched in flying]


def test_the_cpu_has_computed_when_it_was_asked():
    launched = CpuDevice().launch(Reader().predict, texts(4, 1))
    assert launched.ready()
    equal(launched.wait(), Reader().predict(texts(4, 1)))
    assert launched.seconds() > 0
    assert not CpuDevice().record(Reader().predict, texts(4, 1))
    assert isinstance(open_device(CPU), CpuDevice)


def test_two_batches_on_their_way_do_not_touch_each_other(gpu):
    model = Reader()
    batches = [texts(1 + number % 4, number, 1 + number % 7) for number in range(20)]
    answers = in_turn(CudaDevice(CPU), model.predict, batches)
    for answer, tensors in zip(answers, batches, strict=True):
        equal(answer, model.predict(tensors))


def test_recordings_give_the_same_answers(gpu):
    model = Reader()
    device = CudaDevice(CPU)
    assert all(device.record(model.predict, texts(rows, 99)) for rows in (4, 2, 1))
    batches = [texts(1 + number % 5, number) for number in range(25)]  # 5 rows have no recording
    answers = in_turn(device, never_above(4, model.predict), batches)
    for answer, tensors in zip(answers, batches, strict=True):
        equal(answer, model.predict(tensors))


def never_above(recorded: int, predict):
    """A `predict` that is not called for batches that have a recording."""

    def checked(tensors):
        assert len(tensors["bonus"]) > recorded
        return predict(tensors)

    return checked


def test_a_model_that_looks_at_values_is_called_plainly(gpu):
    def curious(tensors):
        return {"half": tensors["bonus"] / (2 if tensors["bonus"].max() > 0.5 else 1)}

    device = CudaDevice(CPU)
    assert not device.record(curious, texts(4, 1))
    equal(device.launch(curious, texts(4, 1)).wait(), curious(texts(4, 1)))


def test_a_recording_that_answers_otherwise_is_not_used(gpu):
    class Fickle:
        calls = 0

        def predict(self, tensors):
            self.calls += 1  # a recording keeps the value that this has while it is made
            return {"sum": tensors["bonus"] + self.calls}

    assert not CudaDevice(CPU).record(Fickle().predict, texts(4, 1))


@pytest.mark.parametrize("output", [torch.zeros(3), torch.tensor(1.0)])
def test_a_model_whose_outputs_are_not_one_a_row_is_called_plainly(gpu, output):
    device = CudaDevice(CPU)
    assert not device.record(lambda tensors: {"odd": output * 1}, texts(4, 1))
    assert device.launch(lambda tensors: {"odd": output * 1}, texts(4, 1)).wait()["odd"].shape == output.shape


def test_a_model_that_writes_into_its_inputs_can_be_recorded(gpu):
    def rude(tensors):
        return {"double": tensors["bonus"].mul_(2)}

    device = CudaDevice(CPU)
    assert device.record(rude, texts(4, 1))
    for answer, seed in zip(in_turn(device, rude, [texts(3, seed) for seed in range(9)]), range(9), strict=True):
        equal(answer, {"double": texts(3, seed)["bonus"] * 2})


def test_what_a_batch_uses_is_kept_until_it_is_done(gpu, monkeypatch):
    made = []

    def pinned(size):
        block = torch.zeros(size, dtype=torch.uint8)
        made.append(weakref.ref(block))
        return block

    monkeypatch.setattr(devices, "pinned", pinned)
    launched = CudaDevice(CPU).launch(Reader().predict, texts(4, 1))
    gpu.synchronize(None)  # the simulated streams themselves keep nothing any more
    gc.collect()
    staged = made[0]
    assert staged() is not None
    launched.wait()
    gc.collect()
    assert staged() is None
    assert launched.seconds() == 0.001


def test_a_batch_that_fails_leaves_the_one_before_alone(gpu):
    model, device = Reader(), CudaDevice(CPU)
    first = device.launch(model.predict, texts(4, 1))
    with pytest.raises(KeyError):
        device.launch(lambda tensors: tensors["nothing"], texts(4, 2))
    assert not any(stream.queue for stream in gpu.streams)
    assert gpu.emptied == 0
    equal(first.wait(), model.predict(texts(4, 1)))
    equal(device.launch(model.predict, texts(2, 3)).wait(), model.predict(texts(2, 3)))


def raising(error):
    def predict(tensors):
        raise error

    return predict


def accelerator_error(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error")
    error.error_code = code
    return error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), accelerator_error(2)])
def test_out_of_memory_gives_back_what_is_cached(gpu, error):
    with pytest.raises(torch.OutOfMemoryError):
        CudaDevice(CPU).launch(raising(error), texts(4, 1))
    assert gpu.emptied == 1


def test_an_error_that_the_device_survives_is_one_of_the_batch(gpu):
    with pytest.raises(RuntimeError) as raised:
        CudaDevice(CPU).launch(raising(accelerator_error(9)), texts(4, 1))
    assert not isinstance(raised.value, torch.AcceleratorError)
    assert "predict" in [entry.name for entry in raised.traceback]


def test_a_broken_device_says_so_whatever_the_batch_said(gpu):
    device = CudaDevice(CPU)
    flying = device.launch(Reader().predict, texts(4, 1))
    gpu.broken = accelerator_error(710)
    with pytest.raises(torch.AcceleratorError):
        device.launch(raising(RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")), texts(4, 1))
    assert flying.ready()  # so that somebody waits
    with pytest.raises(torch.AcceleratorError):
        flying.wait()


def test_memory_is_bounded_on_a_gpu_only(gpu, monkeypatch):
    calls = []
    monkeypatch.setattr(gpu, "set_per_process_memory_fraction", lambda *given: calls.append(given), raising=False)
    bound_memory(CPU, 0.5)
    bound_memory(torch.device("cuda", 1), 0.25)
    assert calls == [(0.25, torch.device("cuda", 1))]
    assert isinstance(open_device(torch.device("cuda", 0)), CudaDevice)


TYPES = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def test_tensors_of_all_types_and_shapes_share_a_block():
    torch.manual_seed(0)
    tensors = {str(kind): (torch.rand(3, 5) * 100).to(kind) for kind in TYPES}
    tensors |= {"none": torch.zeros(0, 4), "one": torch.tensor(7), "across": torch.rand(5, 3).T}
    layout = Layout.of(tensors)
    found = layout.views(layout.filled(tensors, torch.zeros(layout.size, dtype=torch.uint8)))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert found[name].is_contiguous()


def test_rows_that_are_missing_are_the_first_again():
    tensors = {"a": torch.tensor([[1, 2], [3, 4]]), "b": torch.tensor([0.5, 1.5])}
    layout = Layout.of(tensors, rows=4)
    found = layout.views(layout.filled(tensors, torch.zeros(layout.size, dtype=torch.uint8)))
    assert found["a"].tolist() == [[1, 2], [3, 4], [1, 2], [1, 2]]
    assert found["b"].tolist() == [0.5, 1.5, 0.5, 0.5]
