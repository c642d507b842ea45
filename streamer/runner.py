"""The GPU: one thread that turns batches into answers, at most two batches ahead of the owner thread."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from streamer.clock import Deadline
from streamer.errors import Internal, Reason, Reject, Temporary
from streamer.records import Batch, BatchResult, Item, Predicted, Rejected
from streamer.worker import Tensors, Worker

STUCK_S = 600.0
"""A batch takes seconds; one that takes this long never ends, and only a new process helps."""

Answered = Predicted | Rejected

NOT_FINITE = Rejected(reason=Reason.NOT_FINITE, message="the model's output is NaN or infinite", error="Reject")


class Inference:
    """A worker on a device: items in, one answer or rejection each out. No threads, no queues."""

    def __init__(self, worker: Worker[Any, Any], device: torch.device, answer_bytes_max: int) -> None:
        self._worker = worker
        self._device = device
        self._answer_bytes_max = answer_bytes_max
        self._to_json = worker.answer.__pydantic_serializer__.to_json

    def run(self, items: Sequence[Item]) -> list[Answered]:
        """Answer a batch. One that fails is halved until the culprits are alone: at most 2N - 1 runs for N
        items, about 2 log2(N) for one culprit.

        Raises:
            Temporary: the device itself is broken; only a new process helps.
        """
        try:
            return self._answer(items)
        except torch.AcceleratorError as error:
            # A device-side assert or an illegal access poisons the whole context: every later call fails too.
            raise Temporary(f"the device failed ({type(error).__name__}); start the process again") from error
        except Exception as error:
            # One bad event must never take the worker down, so whatever the model raises is a rejection.
            if len(items) == 1:
                return [rejection(error)]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # after out-of-memory, the halves need what the whole has fragmented
        half = len(items) // 2
        return self.run(items[:half]) + self.run(items[half:])

    def _answer(self, items: Sequence[Item]) -> list[Answered]:
        events = [item.event for item in items]
        tensors = self._worker.encode(events, [item.features for item in items])
        with torch.inference_mode():
            outputs = self._worker.predict(self._to_device(tensors))
        outputs = {name: tensor.to("cpu") for name, tensor in outputs.items()}
        finite = _finite_rows(outputs, len(items))
        if not all(finite):
            rows = torch.tensor(finite).nonzero().flatten()
            events = [event for event, ok in zip(events, finite, strict=True) if ok]
            outputs = {name: tensor[rows] for name, tensor in outputs.items()}
        answers = self._worker.decode(events, outputs) if events else []
        if len(answers) != len(events):
            raise Reject(Reason.WRONG_SHAPE, f"decode() gave {len(answers)} answers for {len(events)} events")
        dumped = iter([Predicted(answer=self._dump(answer), cached=False) for answer in answers])
        return [next(dumped) if ok else NOT_FINITE for ok in finite]

    def _to_device(self, tensors: Tensors) -> Tensors:
        if self._device.type == "cpu":
            return tensors
        return {name: tensor.pin_memory().to(self._device, non_blocking=True) for name, tensor in tensors.items()}

    def _dump(self, answer: BaseModel) -> bytes:
        if not isinstance(answer, self._worker.answer):
            raise Reject(
                Reason.WRONG_SHAPE,
                f"decode() gave {type(answer).__name__} where {self._worker.answer.__name__} was declared",
            )
        dumped: bytes = self._to_json(answer)
        if len(dumped) > self._answer_bytes_max:
            raise Reject(Reason.ANSWER_TOO_LARGE, f"the answer has {len(dumped)} bytes, more than a record may")
        return dumped


def _finite_rows(outputs: Tensors, rows: int) -> list[bool]:
    finite = torch.ones(rows, dtype=torch.bool)
    for name, tensor in outputs.items():
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            shape = tuple(tensor.shape)
            raise Reject(Reason.WRONG_SHAPE, f"output {name!r} has shape {shape} for {rows} events")
        if tensor.is_floating_point():
            finite &= torch.isfinite(tensor).reshape(rows, -1).all(dim=1)
    return finite.tolist()


def rejection(error: Exception) -> Rejected:
    """What to say of an event that the worker fails on."""
    name = type(error).__name__
    if isinstance(error, Reject):
        return Rejected(reason=error.reason, message=error.message, error=name)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return Rejected(reason=Reason.OUT_OF_MEMORY, message="no memory even for this event alone", error=name)
    # The text of a foreign exception may quote the event; headers and logs must not. Its line quotes nothing.
    return Rejected(reason=Reason.MODEL_ERROR, message=f"the worker raised {name}{_place(error)}", error=name)


def _place(error: Exception) -> str:
    """Where in the worker's file it was raised or what it called there failed; empty when that is not known."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" in {own[-1].name}, line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""


class ThreadRunner:
    """Runs batches in submission order on a thread of its own."""

    slots = 2

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[BatchResult | BaseException] = queue.SimpleQueue()
        self._out = 0
        self._heard = 0.0
        self._thread = threading.Thread(target=self._serve, name="runner", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def out(self) -> int:
        return self._out

    def submit(self, batch: Batch) -> None:
        if self._out >= self.slots:
            raise Internal(f"the runner has {self._out} batches out and takes no more")
        if not self._out:
            self._heard = time.monotonic()
        self._out += 1
        self._inbox.put(batch)

    def finished(self, timeout_s: float) -> list[BatchResult]:
        results: list[BatchResult] = []
        while self._out:
            try:
                result = self._outbox.get(timeout=timeout_s) if timeout_s > 0 else self._outbox.get_nowait()
            except queue.Empty:
                if time.monotonic() - self._heard > STUCK_S:
                    raise Temporary(f"the model has not come back for {STUCK_S:.0f} s; start again") from None
                break
            self._heard = time.monotonic()
            if isinstance(result, BaseException):
                raise result
            self._out -= 1
            results.append(result)
            timeout_s = 0
        return results

    def close(self, deadline: Deadline) -> None:
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(deadline.left())

    def _serve(self) -> None:
        while (batch := self._inbox.get()) is not None:
            started = time.perf_counter()
            try:
                outcomes = self._inference.run(batch.items)
            except BaseException as error:  # a thread must not die in silence: the owner raises it
                self._outbox.put(error)
                return
            seconds = time.perf_counter() - started
            self._outbox.put(BatchResult(batch=batch, outcomes=outcomes, seconds=seconds))
