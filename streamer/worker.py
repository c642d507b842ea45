"""The class that a user writes: it says what the answer is, and never mentions Kafka."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar, cast

from pydantic import BaseModel

from schemas import Event

if TYPE_CHECKING:  # so that finding a worker's name does not wait for torch
    import torch

    from streamer.days import Days
    from streamer.models import Model
    from streamer.panes import Window

E = TypeVar("E", bound=Event)
P = TypeVar("P", bound=BaseModel)

Tensors: TypeAlias = "dict[str, torch.Tensor]"
"""Named tensors whose first dimension is the batch."""

Features = Mapping[str, float]
"""The features of one entity from the feature store: empty when the worker reads none or the store is down."""


class Worker(Generic[E, P]):
    """Subclass it, name the topics and the models of both sides, fill in `encode`, `predict` and `decode`.

    The events that these methods get have the fields, properties and methods of `event`. They are instances of it only
    where the hot path has no faster form of it (`streamer.wire.derive`), so do not test them with `isinstance`.

    `name`     how the worker is called on the command line, in topics' metadata and in metrics
    `source`   the topic it reads, `target` the topic of its predictions
    `event`    the pydantic model of a source record, `answer` that of a prediction's answer
    `example`  one valid event: the warm-up and `streamer check` run it through the whole path
    `model`    the folder below `models.dir` that holds its versions; empty for a worker without files
    `windows`  what `streamer windows` counts over the events, by `feature_key`; these counts are then the features
    `days`     how `streamer days` makes the source topic from the events of another topic, a day at a time
    `graphs`   whether a GPU may record `predict` as CUDA graphs, one for each shape that `sample` and the batch sizes
               give, and replay them without calling it. Then nothing in `predict` may depend on values, and `encode`
               must pad lengths to a few (say the next of `streamer.BUCKETS`), or no shape comes again
    """

    name: ClassVar[str]
    source: ClassVar[str]
    target: ClassVar[str]
    event: ClassVar[type[Event]]
    answer: ClassVar[type[BaseModel]]
    example: ClassVar[Event]
    model: ClassVar[str] = ""
    windows: ClassVar[Sequence[Window]] = ()
    days: ClassVar[Days | None] = None
    graphs: ClassVar[bool] = False

    def load(self, model: Model, device: torch.device) -> None:
        """Bring the model to the device. Called once, before the first record.

        `model.tensors()` are its verified weights, `model.manifest` describes it; both are empty for a worker without
        files.
        """

    def encode(self, events: Sequence[E], features: Sequence[Features]) -> Tensors:
        """Turn the whole batch into CPU tensors, first dimension = len(events). Runs on the runner thread.

        An exception dead-letters only the events that cause it: the batch is split to find them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def predict(self, tensors: Tensors) -> Tensors:
        """Run the model: tensors arrive on the device, inference mode is on, and every output's first
        dimension is the batch. A row that is not finite dead-letters its event."""
        raise NotImplementedError(f"{type(self).__name__} has no predict()")

    def decode(self, events: Sequence[E], outputs: Tensors) -> Sequence[P | Mapping[str, Any]]:
        """Turn the outputs (on the CPU) into one answer an event, in order: an instance of `answer`, or its fields
        as a dict, which is checked against `answer` just as strictly in a fifth of the time."""
        raise NotImplementedError(f"{type(self).__name__} has no decode()")

    def cost(self, event: E) -> int:
        """The event's length in the model's unit (tokens, rows), at least 1: a batch is padded to its longest."""
        return 1

    def cache_key(self, event: E, features: Features) -> Hashable | None:
        """The features that decide the answer, as a tuple of str, int, float, bool, None or bytes; None = do not cache.

        Two events with equal keys get the same answer under one model.
        """
        return None

    def feature_key(self, event: E) -> str | None:
        """The entity whose features are read from the feature store; None = the worker reads none."""
        return None

    def accepts(self, event: E) -> bool:
        """Whether the event is to be answered at all; False counts it as skipped and publishes nothing."""
        return True

    def sample(self, random: Random, number: int) -> E:
        """One realistic event for demos and benchmarks, which set its id and time; the same `random` and
        `number` make the same event."""
        return cast(E, self.example.model_copy(update={"event_id": f"sample-{number}"}))

    def words(self, answer: P) -> str:
        """The answer as a person would say it, in one short line."""
        return answer.model_dump_json()


def overrides(worker: Worker[Any, Any], method: str) -> bool:
    """Whether a worker defines an optional method: one that it does not define costs its events nothing."""
    return getattr(type(worker), method) is not getattr(Worker, method)
