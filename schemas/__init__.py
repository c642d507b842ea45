"""The types of events and answers. They need only pydantic: a producer or a reader can use them without the engine."""

from schemas.events import Event
from schemas.leads import LeadEvent, LeadScore
from schemas.pii import Pii
from schemas.predictions import DeadLetter, FeaturesAsOf, Prediction, Source, UsedFeatures
from schemas.sales import (
    ArticleDayEvent,
    ArticleForecast,
    Expected,
    InvoiceEvent,
    InvoiceLine,
    PurchasePropensity,
)
from schemas.tickets import Candidate, TicketEvent, TicketRoute
from schemas.topics import (
    ARTICLE_FORECASTS,
    EVENTS,
    LEAD_SCORES,
    PURCHASE_PROPENSITIES,
    TICKET_ROUTES,
    dead_letters,
    used_features,
)

__all__ = [
    "ARTICLE_FORECASTS",
    "EVENTS",
    "LEAD_SCORES",
    "PURCHASE_PROPENSITIES",
    "TICKET_ROUTES",
    "ArticleDayEvent",
    "ArticleForecast",
    "Candidate",
    "DeadLetter",
    "Event",
    "Expected",
    "FeaturesAsOf",
    "InvoiceEvent",
    "InvoiceLine",
    "LeadEvent",
    "LeadScore",
    "Pii",
    "Prediction",
    "PurchasePropensity",
    "Source",
    "TicketEvent",
    "TicketRoute",
    "UsedFeatures",
    "dead_letters",
    "used_features",
]
