"""A worker small enough to know every answer by heart, with faults on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import BaseModel

from schemas import Event
from streamer.panes import Window
from streamer.ports import FeatureStore
from streamer.records import NO_FEATURES
from streamer.worker import Features, Tensors, Worker
from tests.slices import rows


class Ping(Event):
    """`fault` makes the worker fail on this event: raise, nan, or skip; `length` is its cost."""

    topic: ClassVar[str] = "test.pings.events.v1"

    name: str = "one"
    number: int
    length: int = 1
    fault: str = ""

    @property
    def key(self) -> str:
        return self.name


class Pong(BaseModel):
    """Twice the number."""

    double: float


class Echo(Worker[Ping, Pong]):
    name = "echo"
    source = Ping.topic
    target = "test.pings.doubles.v1"
    event = Ping
    answer = Pong
    example = Ping.model_validate_json('{"event_id": "e", "occurred_at": "2026-01-01T00:00:00Z", "number": 1}')

    def __init__(self) -> None:
        self.runs: list[list[int]] = []

    def encode(self, events: Sequence[Ping], features: Sequence[Features]) -> Tensors:
        self.runs.append([event.number for event in events])
        if any(event.fault == "raise" for event in events):
            raise ValueError("a secret of the event")
        bonus = [known.get("bonus", 0.0) for known in features]
        numbers = [float("nan") if event.fault == "nan" else float(event.number) for event in events]
        return {"numbers": torch.tensor(numbers), "bonus": torch.tensor(bonus)}

    def predict(self, tensors: Tensors) -> Tensors:
        return {"double": tensors["numbers"] * 2 + tensors["bonus"]}

    def decode(self, events: Sequence[Ping], outputs: Tensors) -> list[Pong]:
        return [Pong(double=value) for value in outputs["double"].tolist()]

    def cost(self, event: Ping) -> int:
        return event.length

    def feature_key(self, event: Ping) -> str | None:
        return event.name if event.name.startswith("known") else None

    def accepts(self, event: Ping) -> bool:
        return event.fault != "skip"


class CachedEcho(Echo):
    """The same, and equal numbers are equal answers."""

    def cache_key(self, event: Ping, features: Features) -> tuple[int, str] | None:
        return (event.number, event.fault)


class Counting(Echo):
    """With windows, and a fault in each piece of code that they call."""

    windows = (
        Window("pings", "count", lambda ping: 1, ("1h", "7d")),
        Window("total", "sum", lambda ping: 1 / 0 if ping.fault == "window" else ping.number, ("1d",)),
    )

    def feature_key(self, event: Ping) -> str | None:
        if event.fault == "key":
            raise ValueError("a secret of the event")
        return None if event.fault == "nobody" else event.name


def ping(number: int, name: str = "one", **more: object) -> Ping:
    """An event with a stable id."""
    return Ping.model_validate(
        {"event_id": f"e{number}", "occurred_at": Echo.example.occurred_at, "number": number, "name": name, **more}
    )


def features_of(store: FeatureStore, *entities: str) -> list[Features]:
    """What a store knows of entities, asked at once."""
    asked = rows(*range(len(entities)))
    asked.columns.events = [Echo.example] * len(entities)
    assert store.read_many(list(asked), entities) == []
    return list(asked.columns.features or [NO_FEATURES] * len(entities))
