"""Events full of personal data, each piece of it a canary, and a worker that quotes them wherever it can."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field, field_validator

from schemas import Event, Pii
from streamer.worker import Features, Tensors, Worker

CANARY = "xq7zanna"
"""In every piece of personal data as text."""
NUMBER = 77_007_700_077
"""The same, as a number."""
CANARIES = (CANARY.encode(), str(NUMBER).encode())


class Card(BaseModel):
    """A part with a tagged field of its own."""

    holder: Annotated[str, Pii()]
    kind: Literal["debit", "credit"] = "debit"


class Person(Event):
    """`account` is a pseudonym and the record's key; `fault` says what the worker does with it."""

    topic: ClassVar[str] = "test.people.events.v1"

    account: str
    name: Annotated[str, Pii(), Field(max_length=200)]
    income: Annotated[int, Pii()]
    card: Card
    notes: list[Annotated[str, Pii()]] = []
    home: Annotated[dict[str, str] | None, Pii()] = None
    contacts: dict[str, Annotated[str, Pii()]] = {}
    fault: str = ""

    @property
    def key(self) -> str:
        return self.account


class Quoting(Person):
    """Its own validator quotes the value that it refuses."""

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name.startswith("!"):
            raise ValueError(f"bad name {name!r}")
        if name.startswith("?"):
            raise LookupError(f"bad name {name!r}")
        return name


class Seen(BaseModel):
    """How long the name is, and the income: what only who has read the event can say."""

    length: int
    income: Annotated[int, Field(ge=0)]


def person(number: int = 0, **more: Any) -> Person:
    """An event whose personal data are canaries."""
    return Person.model_validate_json(as_json(number, **more))


def as_json(number: int = 0, **more: Any) -> str:
    """The same as a producer writes it, right or wrong."""
    event = {
        "event_id": f"e{number}",
        "occurred_at": "2026-01-01T00:00:00Z",
        "account": f"a{number % 3}",
        "name": f"{CANARY} Müller {number}",
        "income": NUMBER,
        "card": {"holder": f"{CANARY} M.", "kind": "credit"},
        "notes": [f"{CANARY} called", f"{CANARY} twice"],
        "home": {"street": f"{CANARY} street"},
        "contacts": {"mother": f"{CANARY} senior"},
    }
    return json.dumps({**event, **more})


class Indiscreet(Worker[Person, Seen]):
    """Puts the event into the text of every exception, and each into the next one."""

    name = "indiscreet"
    source = Person.topic
    target = "test.people.seen.v1"
    event = Quoting
    answer = Seen
    example = Quoting.model_validate_json(as_json())

    def encode(self, events: Sequence[Person], features: Sequence[Features]) -> Tensors:
        _fail(events, "encode")
        incomes = [float("nan") if event.fault == "nan" else float(event.income) for event in events]
        return {
            "income": torch.tensor(incomes, dtype=torch.float64),
            "length": torch.tensor([len(e.name) for e in events]),
        }

    def predict(self, tensors: Tensors) -> Tensors:
        return tensors

    def decode(self, events: Sequence[Person], outputs: Tensors) -> list[Any]:
        _fail(events, "decode")
        rows = zip(events, outputs["length"].tolist(), outputs["income"].tolist(), strict=True)
        return [
            {"length": length, "income": event.name if event.fault == "answer" else int(income)}
            for event, length, income in rows
        ]

    def accepts(self, event: Person) -> bool:
        _fail([event], "accepts")
        return event.fault != "skip"

    def cost(self, event: Person) -> int:
        _fail([event], "cost")
        return 1

    def cache_key(self, event: Person, features: Features) -> tuple[str, int]:
        _fail([event], "cache_key")
        return (event.name, event.income)


FAULTS = ("encode", "decode", "accepts", "cost", "cache_key", "nan", "answer")


def _fail(events: Sequence[Person], where: str) -> None:
    for event in events:
        if event.fault == where:
            try:
                raise KeyError(event.name)
            except KeyError as error:
                raise ValueError(f"{event.name} {event.notes} {event.income}") from error
