"""Where a model runs: two devices of one shape. `launch` starts a batch, and what it returns is waited for.

On the CPU a batch has run when `launch` returns. On a GPU three streams work side by side: one copies the next batch
in, the second computes, the third copies answers out; the host encodes and decodes meanwhile. A `Launched` keeps
everything that its batch uses until the batch is done, so that no block of memory is reused too early."""

from __future__ import annotations

import time
import traceback
from typing import NamedTuple, Protocol

import torch
from torch import cuda

from streamer.device.graphs import Graphs, Predict, Replay, cut, rows_and_kind
from streamer.worker import Tensors

ALIGNED = 256
"""Bytes: the alignment of a tensor in a block, as that of the GPU's own allocator."""
WARM_RUNS = 2
"""Plain runs before a recording: the first initialises and compiles, the second uses what the first has chosen."""
ALIKE, ALIKE_NEAR_ZERO = 0.01, 0.0001
"""A replay runs the kernels of the plain call. A difference beyond the order of additions says that something was not
recorded."""
NO_MEMORY = 2
"""cudaErrorMemoryAllocation: the only CUDA error that means that there is no memory."""


class Launched(Protocol):
    """A batch on its way through the device."""

    def ready(self) -> bool:
        """Whether `wait` would return at once."""

    def wait(self) -> Tensors:
        """The outputs, on the CPU. Raises `torch.AcceleratorError`: the device is broken."""

    def seconds(self) -> float:
        """How long the model ran, without its waits; known once `wait` has returned."""


class Device(Protocol):
    """Runs batches in the order in which they are launched."""

    def launch(self, predict: Predict, tensors: Tensors) -> Launched:
        """Start a batch whose inputs are on the CPU, and wait for nothing.

        Raises what `predict` raises. After `torch.AcceleratorError` the device is broken, after any other error the
        next batch may be launched.
        """

    def record(self, predict: Predict, tensors: Tensors) -> bool:
        """Record a run for batches of this shape or of fewer rows. Returns whether a recording will serve them."""


class CpuDevice:
    """Computes where it is called."""

    def launch(self, predict: Predict, tensors: Tensors) -> Launched:
        started = time.perf_counter()
        with torch.inference_mode():
            outputs = predict(tensors)
        outputs = {name: tensor.to("cpu") for name, tensor in outputs.items()}
        return Computed(outputs, time.perf_counter() - started)

    def record(self, predict: Predict, tensors: Tensors) -> bool:
        return False


class Computed:
    """A batch that has run."""

    def __init__(self, outputs: Tensors, seconds: float) -> None:
        self._outputs = outputs
        self._seconds = seconds

    def ready(self) -> bool:
        return True

    def wait(self) -> Tensors:
        return self._outputs

    def seconds(self) -> float:
        return self._seconds


class CudaDevice:
    """One GPU, or a share of it. Make it after the model was loaded, on any stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in, self._compute, self._out = _stream(device), _stream(device), _stream(device)
        self._compute.wait_stream(cuda.current_stream(device))  # the weights may still be on their way
        self._pool = cuda.graph_pool_handle()
        self._graphs = Graphs(self._capture)

    def launch(self, predict: Predict, tensors: Tensors) -> Launched:
        try:
            with cuda.device(self._device), torch.inference_mode():
                return self._launch(predict, tensors)
        except Exception as error:
            raise self._after(error) from None

    def record(self, predict: Predict, tensors: Tensors) -> bool:
        return self._graphs.record(predict, tensors)

    def _launch(self, predict: Predict, tensors: Tensors) -> Launched:
        graph = self._graphs.find(tensors)
        layout = Layout.of(tensors, graph.rows if graph else None)
        staged = layout.filled(tensors, pinned(layout.size))
        copied, started, computed, done = _event(), _event(), _event(), _event()
        with cuda.stream(self._in):
            block = self._moved(staged)
            copied.record(self._in)
        with cuda.stream(self._compute):
            self._compute.wait_event(copied)
            started.record(self._compute)
            if graph:
                # The next replay, of any graph, may overwrite these while they are still copied out.
                outputs = {name: output.clone() for name, output in cut(graph.replay(block), tensors).items()}
            else:
                outputs = predict(layout.views(block))
            computed.record(self._compute)
        leaving = Layout.of(outputs)
        answers = leaving.views(pinned(leaving.size))
        with cuda.stream(self._out):
            self._out.wait_event(computed)
            for name, view in answers.items():
                view.copy_(outputs[name], non_blocking=True)
            done.record(self._out)
        return InFlight(started, computed, done, answers, (staged, block, outputs))

    def _capture(self, predict: Predict, tensors: Tensors) -> Replay:
        try:
            with cuda.device(self._device), torch.inference_mode(), cuda.stream(self._compute):
                return self._recorded(predict, tensors)
        except Exception as error:
            raise self._after(error) from None

    def _recorded(self, predict: Predict, tensors: Tensors) -> Replay:
        """A run as a CUDA graph, once a replay of it on other inputs equals a plain run.

        All graphs take memory from one pool: they are replayed one after the other, and the outputs of a replay are
        copied before the next. `thread_local`: calls of another thread do not spoil the recording."""
        layout = Layout.of(tensors)
        staged = layout.filled(tensors, pinned(layout.size))
        mirrored = layout.filled({name: rows.flip(0) for name, rows in tensors.items()}, pinned(layout.size))
        inputs = self._moved(staged)
        for _ in range(WARM_RUNS):
            outputs = predict(layout.views(self._moved(staged)))
        if rows_and_kind(outputs)[0] != rows_and_kind(tensors)[0]:
            raise ValueError("not every output has one row an event")
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"):
            outputs = predict(layout.views(inputs))

        def replay(block: torch.Tensor) -> Tensors:
            inputs.copy_(block, non_blocking=True)
            graph.replay()
            return outputs

        plain = predict(layout.views(self._moved(mirrored)))
        replayed = replay(self._moved(mirrored))
        torch.testing.assert_close(replayed, plain, rtol=ALIKE, atol=ALIKE_NEAR_ZERO, equal_nan=True)
        return replay

    def _moved(self, staged: torch.Tensor) -> torch.Tensor:
        block = torch.empty(staged.shape, dtype=staged.dtype, device=self._device)
        return block.copy_(staged, non_blocking=True)

    def _after(self, error: Exception) -> Exception:
        """The error of a batch, once none of its kernels runs any more: they may still use memory that a failure frees.

        Raises:
            torch.AcceleratorError: the device itself is broken.
        """
        traceback.clear_frames(error.__traceback__)  # they hold tensors whose room the halves of the batch need
        cuda.synchronize(self._device)  # raises again when the device is broken
        known = _survived(error)
        if isinstance(known, torch.OutOfMemoryError):
            cuda.empty_cache()  # the halves need in one piece what the whole has cut up
        return known.with_traceback(error.__traceback__)


class InFlight:
    """A batch on a GPU; it keeps alive what its streams use."""

    def __init__(
        self, started: cuda.Event, computed: cuda.Event, done: cuda.Event, outputs: Tensors, used: object
    ) -> None:
        self._started, self._computed, self._done = started, computed, done
        self._outputs = outputs
        self._used: object = used

    def ready(self) -> bool:
        try:
            return bool(self._done.query())  # type: ignore[no-untyped-call]
        except torch.AcceleratorError:
            return True  # `wait` says so

    def wait(self) -> Tensors:
        self._done.synchronize()  # the thread sleeps, and others have the interpreter
        self._used = None
        return self._outputs

    def seconds(self) -> float:
        return float(self._started.elapsed_time(self._computed)) / 1000


class Place(NamedTuple):
    """Where one tensor lies in a block of bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Layout(NamedTuple):
    """Where the tensors of a batch lie in one block of `size` bytes, so that they are copied all at once."""

    places: tuple[Place, ...]
    size: int

    @classmethod
    def of(cls, tensors: Tensors, rows: int | None = None) -> Layout:
        """Room for these tensors, each with `rows` rows if that is given."""
        places, size = [], 0
        for name, tensor in tensors.items():
            shape = tuple(tensor.shape) if rows is None else (rows, *tensor.shape[1:])
            length = tensor.element_size() * torch.Size(shape).numel()
            places.append(Place(name, tensor.dtype, shape, size, size + length))
            size += -(-length // ALIGNED) * ALIGNED
        return cls(tuple(places), size)

    def views(self, block: torch.Tensor) -> Tensors:
        """The tensors in a block of uint8 (size,)."""
        return {at.name: block[at.start : at.end].view(at.dtype).view(at.shape) for at in self.places}

    def filled(self, tensors: Tensors, block: torch.Tensor) -> torch.Tensor:
        """The block with the tensors in it; rows that they do not have are copies of their first."""
        for name, view in self.views(block).items():
            given = tensors[name]
            if view.shape == given.shape:
                view.copy_(given)
            else:
                rows = given.shape[0]
                view[:rows].copy_(given)
                view[rows:].copy_(given[:1].expand_as(view[rows:]))
        return block


def pinned(size: int) -> torch.Tensor:
    """A block of bytes (uint8) that the GPU reads and writes itself. torch keeps such blocks for reuse, by powers of
    two, so they never grow beyond the need of the largest batches in flight."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def open_device(device: torch.device) -> Device:
    """The device that runs batches there."""
    return CudaDevice(device) if device.type == "cuda" else CpuDevice()


def bound_memory(device: torch.device, share: float) -> None:
    """Bound the share of the device's memory (0 to 1) for tensors of this process. Beyond it torch raises an
    out-of-memory error, which halves a batch. CUDA itself needs some hundred MB more for each process."""
    if device.type == "cuda":
        cuda.set_per_process_memory_fraction(share, device)


def _stream(device: torch.device) -> cuda.Stream:
    return cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event() -> cuda.Event:
    """An event that tells its time; a thread that waits for it sleeps."""
    return cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]


def _survived(error: Exception) -> Exception:
    """An error of a device that still works, turned into one that concerns its batch only."""
    if not isinstance(error, torch.AcceleratorError):
        return error
    if getattr(error, "error_code", None) == NO_MEMORY:
        return torch.OutOfMemoryError(str(error))
    return RuntimeError(str(error))
