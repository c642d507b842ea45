"""What events and answers are. Needs pydantic alone, so a producer or a reader can use it without the engine."""

from schemas.events import Event
from schemas.leads import LeadEvent, LeadScore
from schemas.pii import Pii
from schemas.predictions import DeadLetter, Prediction, Source
from schemas.tickets import Candidate, TicketEvent, TicketRoute
from schemas.topics import EVENTS, LEAD_SCORES, TICKET_ROUTES, dead_letters

__all__ = [
    "EVENTS",
    "LEAD_SCORES",
    "TICKET_ROUTES",
    "Candidate",
    "DeadLetter",
    "Event",
    "LeadEvent",
    "LeadScore",
    "Pii",
    "Prediction",
    "Source",
    "TicketEvent",
    "TicketRoute",
    "dead_letters",
]
