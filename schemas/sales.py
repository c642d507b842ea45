"""The events and answers of a shop: customers' invoices, articles' days that are over, and the workers' answers."""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import Event, Identifier
from schemas.pii import Pii

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


class InvoiceLine(BaseModel):
    """Pieces of one article at a price each, in pounds; `pieces` below 0 are given back or cancelled."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    article: Identifier
    pieces: Annotated[int, Field(ge=-(10**9), le=10**9)]
    price: Annotated[float, Field(ge=0, le=10**9)]


class InvoiceEvent(Event):
    """An invoice, or a cancellation; keyed by the customer, or of one who is not known by itself."""

    topic: ClassVar[str] = "sales.invoices.events.v1"

    invoice_id: Identifier
    customer_id: Annotated[Identifier | None, Pii()] = None
    lines: Annotated[tuple[InvoiceLine, ...], Field(min_length=1, max_length=10_000)]

    @property
    def key(self) -> str:
        return self.customer_id or self.invoice_id


class PurchasePropensity(BaseModel):
    """How likely the customer is to buy again on a later day, at most 28 days after the invoice, in 0..1."""

    model_config = ConfigDict(frozen=True)

    probability: Annotated[float, Field(ge=0, le=1)]
