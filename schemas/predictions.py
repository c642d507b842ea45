"""The outputs: the envelope of every prediction, and the headers of a dead letter."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.pii import Pii

A = TypeVar("A", bound=BaseModel)


class Source(BaseModel):
    """The record that was answered."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]


class Prediction(BaseModel, Generic[A]):
    """A worker's answer to one event.

    `prediction_id` is made of worker and source alone, so the same record always gets the same id: a reader of
    an at-least-once topic drops what it has seen. `key` is the record's key as text: the lead, the customer.
    The answer itself holds no id, so that equal events can share it. `cache` says whether the answer was computed
    for this record.
    """

    model_config = ConfigDict(frozen=True)

    prediction_id: str
    event_id: str
    key: Annotated[str, Pii()]
    worker: str
    model_version: str
    model_digest: str
    source: Source
    produced_at: AwareDatetime
    cache: Literal["hit", "miss"]
    answer: A


class FeaturesAsOf(BaseModel):
    """How far the windows had counted: the entity's records up to `offset`, with the newest event time `time_ms` since
    1970; both are -1 where there was no record."""

    model_config = ConfigDict(frozen=True)

    offset: int
    time_ms: int


class UsedFeatures(BaseModel):
    """The features that a prediction was made from; its key is the record's.

    The event itself is always counted. With `features_as_of` the same features can be made again from the source topic:
    `streamer features backfill --as-logged`.
    """

    model_config = ConfigDict(frozen=True)

    prediction_id: str
    event_id: str
    source: Source
    features_as_of: FeaturesAsOf
    features: dict[str, float]


class DeadLetter(BaseModel):
    """The content of a dead letter's headers; key, value and other headers are copied from the source record.

    `reason` is one word of a fixed list, `message` the error without any of the record's content, `error` its
    class, `attempts` the number of dead letters of this record so far.
    """

    model_config = ConfigDict(frozen=True)

    source: Source
    group: str
    worker: str
    reason: str
    message: str
    error: str
    attempts: Annotated[int, Field(ge=1)]
