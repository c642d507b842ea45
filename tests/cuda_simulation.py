"""A GPU made of the CPU: work given to a stream is done later, in any order that its events allow.

What is called on a tensor within `cuda.stream(...)` is only noted. Until the stream gets to it, results hold nonsense,
so that whoever reads too early, or overwrites what is still to be read, gets wrong numbers. Between one wait and
the next the streams run ahead of each other as a seed says. Memory that is given back is not simulated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from random import Random
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

Task = Callable[[], None]


class Moment:
    """One recording of an event."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.passed = False


class Stream:
    """Tasks in order; a `Moment` among them is waited for, or passes."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.queue: deque[Task | Moment] = deque()

    def wait_event(self, event: Event) -> None:
        assert event.moment is not None, "an event that was never recorded is not waited for"
        self.queue.append(event.moment)

    def wait_stream(self, other: Stream) -> None:
        event = Event(self._gpu)
        event.record(other)
        self.wait_event(event)

    def step(self) -> bool:
        """Do the next thing, if it does not wait for another stream."""
        if not self.queue:
            return False
        task = self.queue[0]
        if isinstance(task, Moment):
            if task.stream is not self and not task.passed:
                return False
            task.passed = True
            self.queue.popleft()
            return True
        self.queue.popleft()
        with _disable_current_modes(), torch.inference_mode():
            task()
        return True


class Event:
    """As `torch.cuda.Event`; every run takes a millisecond."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.moment: Moment | None = None

    def record(self, stream: Stream) -> None:
        self.moment = Moment(stream)
        stream.queue.append(self.moment)

    def query(self) -> bool:
        if self._gpu.broken:
            raise self._gpu.broken
        self._gpu.run_ahead()
        assert self.moment is not None
        return self.moment.passed

    def synchronize(self) -> None:
        assert self.moment is not None
        self._gpu.finish(self.moment)

    def elapsed_time(self, end: Event) -> float:
        assert self.moment is not None
        assert end.moment is not None
        assert self.moment.passed, "an event tells its time once it has passed"
        assert end.moment.passed, "an event tells its time once it has passed"
        return 1.0


class Graph:
    """As `torch.cuda.CUDAGraph`."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.tasks: list[Task] = []

    def replay(self) -> None:
        self._gpu.current.queue.extend(self.tasks)


class _Later(TorchDispatchMode):
    """Notes the operations on tensors in place of doing them."""

    def __init__(self, gpu: Gpu, note: Callable[[Task], None]) -> None:
        super().__init__()
        self._gpu = gpu
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with _disable_current_modes():
            return self._noted(func, args, kwargs)

    def _noted(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func.is_view or func is torch.ops.aten._unsafe_view.default:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._note(lambda: func(*args, **kwargs))
            return args[0]
        if not all("Tensor" in str(each.type) for each in func._schema.returns):
            self._gpu.read()  # a number comes back to Python
            return func(*args, **kwargs)
        if not any(isinstance(each, torch.Tensor) for each in _flat(args)):
            return func(*args, **kwargs)  # a new tensor
        shapes = func(*tree_map_only(torch.Tensor, _shape, args), **kwargs)
        results = tree_map_only(torch.Tensor, _nonsense, shapes)

        def compute() -> None:
            for result, value in zip(_flat(results), _flat(func(*args, **kwargs)), strict=True):
                result.copy_(value)

        self._note(compute)
        return results


class Gpu:
    """As the module `torch.cuda`, for `streamer.device`."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._default = Stream(self)
        self.streams = [self._default]
        self._current = [self._default]
        self._capturing: Graph | None = None
        self.emptied = 0
        self.broken: Exception | None = None

    @property
    def current(self) -> Stream:
        return self._current[-1]

    def Stream(self, device: object) -> Stream:  # noqa: N802
        self.streams.append(Stream(self))
        return self.streams[-1]

    def Event(self, **options: bool) -> Event:  # noqa: N802
        return Event(self)

    def CUDAGraph(self) -> Graph:  # noqa: N802
        return Graph(self)

    def current_stream(self, device: object) -> Stream:
        return self._default

    def device(self, device: object) -> Any:
        return nullcontext()

    def graph_pool_handle(self) -> str:
        return "pool"

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self._current.append(stream)
        try:
            with _Later(self, stream.queue.append):
                yield
        finally:
            self._current.pop()

    @contextmanager
    def graph(self, graph: Graph, pool: object, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.synchronize(None)
        self._capturing = graph
        try:
            with _Later(self, graph.tasks.append):
                yield
        finally:
            self._capturing = None

    def read(self) -> None:
        """Something is about to be read by the host."""
        if self._capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.synchronize(None)

    def run_ahead(self) -> None:
        """Let some streams do some of what they may."""
        for _ in range(self._random.choice([0, 3, 30, 300])):
            self._random.choice(self.streams).step()

    def finish(self, moment: Moment) -> None:
        """Do what must have been done when this moment passes, as late as it can be; before, whatever happens."""
        if self.broken:
            raise self.broken
        self.run_ahead()
        while not moment.passed:
            if not moment.stream.step():
                first = moment.stream.queue[0]
                assert isinstance(first, Moment)
                self.finish(first)

    def synchronize(self, device: object) -> None:
        if self.broken:
            raise self.broken
        while any([stream.step() for stream in self.streams]):  # noqa: C419 (each of them)
            pass

    def empty_cache(self) -> None:
        self.emptied += 1


def _shape(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _nonsense(shape: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(shape.shape, shape.stride(), dtype=shape.dtype)
    return made.fill_(float("nan") if made.is_floating_point() else 1)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, tuple | list):
        return [each for value in values for each in _flat(value)]
    return [values]
