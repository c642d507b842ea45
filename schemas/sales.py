"""What a shop sells: an article's day when it is over, and the forecast that a worker makes of the next ones."""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import Event, Identifier

HISTORY_DAYS = 56
HORIZON_DAYS = 7

Pieces = Annotated[int, Field(ge=0, le=10**9)]
Amount = Annotated[float, Field(ge=0)]


class ArticleDayEvent(Event):
    """A day of one article that is over; keyed by the article.

    `pieces` were sold on `day` (the last) and on each of the 55 days before it; 0 where none were. Cancellations are
    not taken off: what is forecast is what will be asked for.
    """

    topic: ClassVar[str] = "sales.articles.daily.v1"

    article: Identifier
    day: date
    pieces: Annotated[tuple[Pieces, ...], Field(min_length=HISTORY_DAYS, max_length=HISTORY_DAYS)]

    @property
    def key(self) -> str:
        return self.article


class Expected(BaseModel):
    """Pieces that will be sold: at most `low` with a probability of 10 %, `middle` of 50 %, `high` of 90 %."""

    model_config = ConfigDict(frozen=True)

    low: Amount
    middle: Amount
    high: Amount


class ArticleForecast(BaseModel):
    """What is expected on each of the seven days after the event's day, and on all of them together. Quantiles of the
    sum are no sums of quantiles: an article that sells on one day in three has a middle of 0 on each."""

    model_config = ConfigDict(frozen=True)

    days: Annotated[tuple[Expected, ...], Field(min_length=HORIZON_DAYS, max_length=HORIZON_DAYS)]
    total: Expected
