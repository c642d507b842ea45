"""The shipped workers on topics of the benchmark's own: `streamer run benchmarks/shipped_workers.py:Leads`."""

from __future__ import annotations

from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting


class Leads(LeadScoring):
    """lead-scoring."""

    source, target = "bench.leads.events.v1", "bench.leads.scores.v1"


class Tickets(TicketRouting):
    """ticket-routing."""

    source, target = "bench.tickets.events.v1", "bench.tickets.routes.v1"


class RepeatedTickets(TicketRouting):
    """ticket-routing for a topic where most has been said before."""

    source, target = "bench.repeated-tickets.events.v1", "bench.repeated-tickets.routes.v1"
