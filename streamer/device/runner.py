"""The GPU: one thread that turns batches into answers, at most two batches ahead of the owner thread.

While a batch computes on a GPU, the next one is encoded, copied in and started, so that it follows at once. On the CPU
a batch has computed when it was started, and batches are answered one after the other.
"""

from __future__ import annotations

import faulthandler
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import torch
from pydantic import BaseModel

from schemas import Event
from streamer.clock import Deadline
from streamer.device.devices import Device, Launched, open_device
from streamer.device.failures import OnError, broken, ignore, rejection
from streamer.errors import DeviceFailed, Exit, Internal, Reason, Reject
from streamer.records import NO_FEATURES, Rejected
from streamer.slices import Batch, BatchResult
from streamer.telemetry.stopwatch import Stopwatch
from streamer.wire.derive import Origin, derive
from streamer.worker import Features, Tensors, Worker

STUCK_S = 60.0
"""A batch takes seconds; one that takes this long never ends, and only a new process helps."""

PAUSED_S = 1.0
"""The owner asks many times a second; a longer gap means that the process was paused, or that a commit was waited
for."""

POLL_S, POLL_MAX_S = 0.00005, 0.001
"""How long the thread waits for the next batch before it looks at the computing one again: it cannot wait for both. The
wait grows, so that its cost stays small beside a long batch, and the delay of an answer stays small beside its time."""

Answered = bytes | Rejected

NOT_FINITE = Rejected(reason=Reason.NOT_FINITE, message="the model's output is NaN or infinite", error="Reject")


class Answers:
    """What `decode` returned, checked against the answer's model and turned to JSON."""

    def __init__(self, model: type[BaseModel], bytes_max: int) -> None:
        self._model = model
        self._bytes_max = bytes_max
        self._struct = derive(model, Origin.PYTHON)
        self._to_json = model.__pydantic_serializer__.to_json
        self._encode = msgspec.json.Encoder().encode

    def encode_many(self, answers: Sequence[BaseModel | Mapping[str, Any]]) -> list[bytes]:
        """One JSON object an answer, in order.

        Raises:
            Reject: an answer is of another type than declared, or larger than a record may be.
            pydantic.ValidationError: a dict does not fit the answer's model.
        """
        encoded = self._fast(answers) or list(map(self._dump, answers))
        if encoded and (longest := max(map(len, encoded))) > self._bytes_max:
            raise Reject(Reason.ANSWER_TOO_LARGE, f"the answer has {longest} bytes, more than a record may")
        return encoded

    def _fast(self, answers: Sequence[BaseModel | Mapping[str, Any]]) -> list[bytes]:
        """Encodes dicts that fit beyond doubt, in a fifth of pydantic's time; empty when pydantic must decide."""
        if self._struct is None or set(map(type, answers)) != {dict}:
            return []
        try:
            return list(map(self._encode, msgspec.convert(answers, list[self._struct])))  # type: ignore[name-defined]
        except Exception:  # whatever it is (a numpy string, say), pydantic has the last word
            return []

    def _dump(self, answer: BaseModel | Mapping[str, Any]) -> bytes:
        if isinstance(answer, Mapping):
            answer = self._model.model_validate(answer)
        if not isinstance(answer, self._model):
            raise Reject(
                Reason.WRONG_SHAPE,
                f"decode() gave {type(answer).__name__} where {self._model.__name__} was declared",
            )
        dumped: bytes = self._to_json(answer)
        return dumped


class Pending:
    """A batch between `Inference.begin` and `Inference.end`. `seconds` is the time spent on it so far: to encode it,
    to run the model (by the device's clock, without the wait for the batch before) and to answer."""

    __slots__ = ("events", "failed", "features", "launched", "seconds")

    def __init__(self, events: Sequence[Any], features: Sequence[Features]) -> None:
        self.events = events
        self.features = features
        self.launched: Launched | None = None
        self.failed: Rejected | None = None
        self.seconds = 0.0

    def ready(self) -> bool:
        """Whether the device is through with it."""
        return self.launched is None or self.launched.ready()


class Inference:
    """A worker on a device: events in, one answer (JSON) or rejection each out. No threads, no queues."""

    def __init__(
        self,
        worker: Worker[Any, Any],
        device: torch.device | Device,
        answer_bytes_max: int,
        on_error: OnError = ignore,
    ) -> None:
        self._worker = worker
        self._device = open_device(device) if isinstance(device, torch.device) else device
        self._answers = Answers(worker.answer, answer_bytes_max)
        self._on_error = on_error
        self.stopwatch = Stopwatch(time.perf_counter, "encode", "predict", "answer")

    def run(self, events: Sequence[Any], features: Sequence[Features] | None = None) -> list[Answered]:
        """Answer a batch. One that fails is halved until the culprits are alone: at most 2N - 1 runs for N
        events, about 2 log2(N) for one culprit.

        Raises:
            DeviceFailed: the device itself is broken; only a new process helps.
        """
        return self.end(self.begin(events, features))

    @contextmanager
    def telling(self, on_error: OnError) -> Iterator[None]:
        """Within, `on_error` gets each exception behind a rejection."""
        before, self._on_error = self._on_error, on_error
        try:
            yield
        finally:
            self._on_error = before

    def record(self, batches: Iterable[Sequence[Event]]) -> int:
        """Let the device record a run of each of these batches, until it takes no more. Returns how many it recorded.

        Raises:
            DeviceFailed: the device itself is broken; only a new process helps.
        """
        recorded = 0
        try:
            for events in batches:
                tensors = self._worker.encode(events, [NO_FEATURES] * len(events))
                if not self._device.record(self._worker.predict, tensors):
                    break
                recorded += 1
            return recorded
        except torch.AcceleratorError as error:
            raise broken(error) from error

    def begin(self, events: Sequence[Any], features: Sequence[Features] | None = None) -> Pending:
        """Encode a batch and start it on the device, which may still be busy with the one before. `end` handles a
        failure. Without `features` no event has any.

        Raises:
            DeviceFailed: the device itself is broken; only a new process helps.
        """
        pending = Pending(events, features or [NO_FEATURES] * len(events))
        self.stopwatch.start()
        started = time.perf_counter()
        try:
            # Copies: a worker may use up its list, and this one says which answer is whose.
            tensors = self._worker.encode(list(events), list(pending.features))
            pending.seconds = time.perf_counter() - started
            self.stopwatch.lap("encode")
            pending.launched = self._device.launch(self._worker.predict, tensors)
        except torch.AcceleratorError as error:
            raise broken(error) from error
        except Exception as error:
            # One bad event must never take the worker down, so whatever the model raises is a rejection.
            pending.failed = self._rejected(error)
        self.stopwatch.lap("predict")
        return pending

    def end(self, pending: Pending) -> list[Answered]:
        """Wait for a batch and answer it, or its halves if it fails.

        Raises:
            DeviceFailed: the device itself is broken; only a new process helps.
        """
        outcomes = self._try(pending)
        if not isinstance(outcomes, Rejected):
            return outcomes
        events, features, started = pending.events, pending.features, time.perf_counter()
        if len(events) > 1:
            half = len(events) // 2
            outcomes = self.run(events[:half], features[:half]) + self.run(events[half:], features[half:])
        elif outcomes.reason is Reason.OUT_OF_MEMORY:
            # The batch before may have held the memory that was missing; now nothing else is on the device.
            again = self._try(self.begin(events, features))
            outcomes = [again] if isinstance(again, Rejected) else again
        else:
            outcomes = [outcomes]
        pending.seconds += time.perf_counter() - started
        return outcomes

    def _try(self, pending: Pending) -> list[Answered] | Rejected:
        """The answers of a batch, or why there are none."""
        if pending.failed is not None:
            return pending.failed
        try:
            return self._answer(pending)
        except torch.AcceleratorError as error:
            # A device-side assert or an illegal access poisons the whole context: every later call fails too.
            raise broken(error) from error
        except Exception as error:
            return self._rejected(error)

    def _rejected(self, error: Exception) -> Rejected:
        self._on_error(error)
        return rejection(error)

    def _answer(self, pending: Pending) -> list[Answered]:
        launched = pending.launched
        assert launched is not None
        outputs = launched.wait()
        self.stopwatch.lap("predict")
        started = time.perf_counter()
        events = pending.events
        finite = _finite_rows(outputs, len(events))
        if not all(finite):
            rows = torch.tensor(finite).nonzero().flatten()
            events = [event for event, ok in zip(events, finite, strict=True) if ok]
            outputs = {name: tensor[rows] for name, tensor in outputs.items()}
        answers = self._worker.decode(list(events), outputs) if events else []
        if len(answers) != len(events):
            raise Reject(Reason.WRONG_SHAPE, f"decode() gave {len(answers)} answers for {len(events)} events")
        predicted = self._answers.encode_many(answers)
        self.stopwatch.lap("answer")
        pending.seconds += launched.seconds() + time.perf_counter() - started
        if len(predicted) == len(finite):
            return list[Answered](predicted)
        left = iter(predicted)
        return [next(left) if ok else NOT_FINITE for ok in finite]


def _finite_rows(outputs: Tensors, rows: int) -> list[bool]:
    finite = torch.ones(rows, dtype=torch.bool)
    for name, tensor in outputs.items():
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            shape = tuple(tensor.shape)
            raise Reject(Reason.WRONG_SHAPE, f"output {name!r} has shape {shape} for {rows} events")
        if tensor.is_floating_point():
            finite &= torch.isfinite(tensor).reshape(rows, -1).all(dim=1)
    return finite.tolist()


class Begun(NamedTuple):
    """A batch that was started on the device."""

    batch: Batch
    pending: Pending


class ThreadRunner:
    """Runs batches in submission order on a thread of its own, of which at most two are begun."""

    slots = 2

    def __init__(self, inference: Inference, stuck_s: float = STUCK_S) -> None:
        self._inference = inference
        self._stuck_s = stuck_s
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[BatchResult | BaseException] = queue.SimpleQueue()
        self._out = 0
        self._heard = self._asked = 0.0
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
            self._heard = self._asked = time.monotonic()
        self._out += 1
        self._inbox.put(batch)

    def finished(self, timeout_s: float) -> list[BatchResult]:
        results: list[BatchResult] = []
        now = time.monotonic()
        if now - self._asked > PAUSED_S:  # this process was stopped, and the batch with it
            self._heard += now - self._asked
        self._asked = now
        while self._out:
            try:
                result = self._outbox.get(timeout=timeout_s) if timeout_s > 0 else self._outbox.get_nowait()
            except queue.Empty:
                if time.monotonic() - self._heard > self._stuck_s:
                    faulthandler.dump_traceback(all_threads=True)
                    raise DeviceFailed(
                        f"the model has not come back for {self._stuck_s:g} s (batch.timeout_s); start again. "
                        "Where it hangs is in the stacks above; a record that hangs it each time becomes a dead letter"
                    ) from None
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
        try:
            while (batch := self._inbox.get()) is not None:
                first: Begun | None = self._begin(batch)
                while first is not None:
                    second = self._meanwhile(first)
                    self._end(first)
                    first = second
        except Exit as error:  # a thread must not die in silence: the owner raises it
            self._outbox.put(error)
        except BaseException as error:  # sys.exit in a model's library, say, is no end of ours
            self._outbox.put(DeviceFailed(f"the model ended its thread with {type(error).__name__}; start again"))

    def _meanwhile(self, first: Begun) -> Begun | None:
        """The next batch, begun, if it comes while the first computes."""
        wait_s = POLL_S
        while not first.pending.ready():
            try:
                batch = self._inbox.get(timeout=wait_s)
            except queue.Empty:
                wait_s = min(wait_s * 1.25, POLL_MAX_S)
                continue
            if batch is None:
                self._inbox.put(None)  # for the next wait for a batch
                return None
            self._inference.stopwatch.lap("predict")
            return self._begin(batch)
        return None

    def _begin(self, batch: Batch) -> Begun:
        return Begun(batch, self._inference.begin(batch.events(), batch.features()))

    def _end(self, begun: Begun) -> None:
        outcomes = self._inference.end(begun.pending)
        self._outbox.put(BatchResult(batch=begun.batch, outcomes=outcomes, seconds=begun.pending.seconds))
