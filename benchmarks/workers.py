"""The same work as workers of `streamer`: `streamer run benchmarks/workers.py:Tabular`, `:Flat` or `:Text`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field

from benchmarks import work
from schemas import Event
from streamer.models import Model
from streamer.worker import Features, Tensors, Worker

EXAMPLE_TIME = datetime(2026, 1, 1, 10, tzinfo=UTC)


class Row(Event):
    """Sixteen numbers."""

    features: Annotated[list[float], Field(min_length=work.FEATURES, max_length=work.FEATURES)]


class Fields(Event):
    """Eleven flat fields, as a CRM has them."""

    age: Annotated[int, Field(ge=0, le=150)]
    visits: Annotated[int, Field(ge=0)]
    calls: Annotated[int, Field(ge=0)]
    balance: float
    income: Annotated[float, Field(ge=0)]
    discount: Annotated[float, Field(ge=0, le=1)]
    days_open: Annotated[float, Field(ge=0)]
    share: Annotated[float, Field(ge=0, le=1)]
    channel: Literal["web", "phone", "branch"]
    segment: Literal["new", "known", "lost"]
    plan: Literal["basic", "full"]


class Words(Event):
    """A text; the model reads its first 64 words."""

    text: Annotated[str, Field(min_length=1)]


class Score(BaseModel):
    """The answer of both models."""

    score: Annotated[float, Field(ge=0, le=1)]
    label: int


class Tabular(Worker[Row, Score]):
    """The small model."""

    name = "bench-tabular"
    source, target = "bench.tabular.events.v1", "bench.tabular.scores.v1"
    event, answer = Row, Score
    example = Row(event_id="example", occurred_at=EXAMPLE_TIME, features=[0.5] * work.FEATURES)

    def load(self, model: Model, device: torch.device) -> None:
        self._network = work.network().to(device)

    def encode(self, events: Sequence[Row], features: Sequence[Features]) -> Tensors:
        return {"features": work.features_tensor([event.features for event in events])}

    def predict(self, tensors: Tensors) -> Tensors:
        return {"probabilities": self._network(tensors["features"])}

    def decode(self, events: Sequence[Row], outputs: Tensors) -> list[dict[str, float]]:
        return _scores(work.tabular_answers(outputs["probabilities"]))


class Flat(Worker[Fields, Score]):
    """The small model on flat fields."""

    name = "bench-flat"
    source, target = "bench.flat.events.v1", "bench.flat.scores.v1"
    event, answer = Fields, Score
    example = Fields(
        event_id="example", occurred_at=EXAMPLE_TIME, age=40, visits=3, calls=1, balance=1_200.5, income=42_000.0,
        discount=0.1, days_open=300.0, share=0.25, channel="web", segment="known", plan="full",
    )  # fmt: skip

    def load(self, model: Model, device: torch.device) -> None:
        self._network = work.network().to(device)

    def encode(self, events: Sequence[Fields], features: Sequence[Features]) -> Tensors:
        return {"features": work.features_tensor(work.flat_rows(events))}

    def predict(self, tensors: Tensors) -> Tensors:
        return {"probabilities": self._network(tensors["features"])}

    def decode(self, events: Sequence[Fields], outputs: Tensors) -> list[dict[str, float]]:
        return _scores(work.tabular_answers(outputs["probabilities"]))


class Text(Worker[Words, Score]):
    """The Transformer; each batch is padded to its own longest text."""

    name = "bench-text"
    source, target = "bench.text.events.v1", "bench.text.scores.v1"
    event, answer = Words, Score
    example = Words(event_id="example", occurred_at=EXAMPLE_TIME, text="a few words to begin with")

    def load(self, model: Model, device: torch.device) -> None:
        self._network = work.encoder().to(device)

    def encode(self, events: Sequence[Words], features: Sequence[Features]) -> Tensors:
        rows = [work.word_ids(event.text) for event in events]
        return {"words": work.words_tensor(rows, max(map(len, rows)))}

    def predict(self, tensors: Tensors) -> Tensors:
        return {"probabilities": self._network(tensors["words"])}

    def decode(self, events: Sequence[Words], outputs: Tensors) -> list[dict[str, float]]:
        return _scores(work.text_answers(outputs["probabilities"]))

    def cost(self, event: Words) -> int:
        return min(event.text.count(" ") + 1, work.POSITIONS)


class CachedText(Text):
    """The same with answers that may be given again."""

    name = "bench-cached-text"

    def cache_key(self, event: Words, features: Features) -> Hashable:
        return (event.text,)


class RepeatedText(CachedText):
    """The same for a topic where most has been said before."""

    name = "bench-repeated-text"
    source, target = "bench.repeated-text.events.v1", "bench.repeated-text.scores.v1"


def _scores(answers: work.Answers) -> list[dict[str, float]]:
    return [{"score": score, "label": label} for score, label in zip(*answers, strict=True)]
