"""Which topic carries what. Names read `<domain>.<entity>.<kind>.v<N>`; a breaking change is a new N."""

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
"""Every kind of event by the name that `streamer produce --as` takes."""


def used_features(topic: str) -> str:
    """The topic of what was known when the predictions of `topic` were made."""
    return f"features.{topic}"


def dead_letters(topic: str) -> str:
    """The topic of the records of `topic` that could not be answered."""
    return f"dlq.{topic}"
