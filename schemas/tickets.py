"""Support tickets, and the team that a worker routes them to.

The intents are those of Banking77 (I. Casanueva et al., "Efficient Intent Detection with Dual Sentence
Encoders", ACL 2020 workshop NLP for ConvAI, arXiv 2003.04807).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.events import Event, Identifier
from schemas.pii import Pii


class TicketEvent(Event):
    """What a customer wrote; keyed by the customer, so that their tickets are routed in order."""

    topic: ClassVar[str] = "crm.tickets.events.v1"

    ticket_id: Identifier
    customer_id: Annotated[Identifier, Pii()]
    channel: Literal["mail", "chat", "web", "phone"] = "web"
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")] = "en"
    text: Annotated[str, StringConstraints(min_length=1, max_length=4000), Pii()]

    @property
    def key(self) -> str:
        return self.customer_id

    @classmethod
    def from_row(cls, row: Mapping[str, str], *, event_id: str, occurred_at: str) -> Self:
        return super().from_row(
            {"ticket_id": event_id, "customer_id": event_id, **row}, event_id=event_id, occurred_at=occurred_at
        )


class Candidate(BaseModel):
    """One intent and its probability in 0..1."""

    model_config = ConfigDict(frozen=True)

    intent: str
    probability: Annotated[float, Field(ge=0, le=1)]


class TicketRoute(BaseModel):
    """The most likely intents, best first."""

    model_config = ConfigDict(frozen=True)

    intent: str
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
