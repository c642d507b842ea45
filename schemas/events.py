"""The events that CRM and sales systems produce, one JSON object a record.

Every event is frozen and strict (a number in quotes is not a number); unknown keys are ignored, so a
producer may add fields before its readers know them. A field that identifies or describes a person is tagged `Pii()`:
neither a printed event nor the text of an error shows its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

from schemas import pii

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Event(BaseModel):
    """What every event has: an id that the producer never reuses, and when it happened (with a time zone)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)

    topic: ClassVar[str]
    """The topic that carries this event."""

    event_id: Identifier
    occurred_at: AwareDatetime

    @property
    def key(self) -> str:
        """The record key: events of one key keep their order, through to the predictions."""
        return self.event_id

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, pii.masked(type(self), name, value) if name else value

    @classmethod
    def from_row(cls, row: Mapping[str, str], *, event_id: str, occurred_at: str) -> Self:
        """Make the event of one CSV row as its publisher wrote it.

        Raises:
            pydantic.ValidationError: the row does not fit.
        """
        return cls.model_validate_strings({**row, "event_id": event_id, "occurred_at": occurred_at})
