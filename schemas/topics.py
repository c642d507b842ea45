"""The topics. Their names read `<domain>.<entity>.<kind>.v<N>`; a breaking change gets a new N."""

from __future__ import annotations

from schemas.events import Event
from schemas.leads import LeadEvent
from schemas.sales import ArticleDayEvent, InvoiceEvent
from schemas.tickets import TicketEvent

LEAD_SCORES = "crm.leads.scores.v1"
TICKET_ROUTES = "crm.tickets.routes.v1"
ARTICLE_FORECASTS = "sales.articles.forecasts.v1"
PURCHASE_PROPENSITIES = "sales.invoices.propensities.v1"

EVENTS: dict[str, type[Event]] = {
    "lead": LeadEvent,
    "ticket": TicketEvent,
    "invoice": InvoiceEvent,
    "article-day": ArticleDayEvent,
}
"""Every kind of event, by its name for `streamer produce --as`."""


def used_features(topic: str) -> str:
    """The topic of the features that the predictions of `topic` were made from."""
    return f"features.{topic}"


def dead_letters(topic: str) -> str:
    """The topic of the dead letters of `topic`: the records that could not be answered."""
    return f"dlq.{topic}"
