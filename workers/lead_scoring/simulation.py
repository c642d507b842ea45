"""Invented leads, for demos and benchmarks: each is plausible, and none is drawn from a data set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, get_args

from schemas import LeadEvent
from schemas.leads import Contact, Education, Job, Marital, Month

START = datetime(2024, 5, 1, 9, 0, tzinfo=UTC)
EVENTS_PER_LEAD = 3
"""On average: the CRM sends a lead again when somebody touches it, most often soon after."""
FIRST = 1_000
"""Leads below this number exist from the start: the first events then repeat as often as later ones."""
RECENT = 60.0
"""The mean distance, in leads, to a lead that is sent again."""
WITHOUT_CONSENT = 0.03
CALLED_AGAIN = 0.3
"""The share of events with a change to score; the others repeat the lead unchanged, and a cache answers them."""


def lead(random: Random, number: int) -> LeadEvent:
    """Event `number`: a lead that may have been sent before, and may have been called again since then."""
    lead_number = FIRST + number // EVENTS_PER_LEAD - min(FIRST, int(random.expovariate(1 / RECENT)))
    person = Random(f"lead {lead_number}")  # noqa: S311  the same lead is the same person every time
    facts = _person(person)
    if random.random() < CALLED_AGAIN:
        facts["campaign"] += random.randint(1, 3)
    return LeadEvent(
        event_id=f"lead-event-{number}",
        occurred_at=START + timedelta(seconds=number),
        lead_id=f"L-{lead_number:06}",
        **facts,
    )


def _person(random: Random) -> dict[str, Any]:
    age = round(min(90.0, max(18.0, random.gauss(41, 12))))
    called_before = random.random() < 0.2
    return {
        "consent": random.random() >= WITHOUT_CONSENT,
        "age": age,
        "job": "retired" if age > 65 else _known(random, get_args(Job), 0.99),
        "marital": random.choice(get_args(Marital)),
        "education": _known(random, get_args(Education), 0.96),
        "default": random.random() < 0.02,
        "balance": round(random.lognormvariate(6.2, 1.3)) - 250,
        "housing": random.random() < 0.55,
        "loan": random.random() < 0.16,
        "contact": _known(random, get_args(Contact), 0.75),
        "day": random.randint(1, 28),
        "month": random.choice(get_args(Month)),
        "campaign": min(30, 1 + int(random.expovariate(0.6))),
        "pdays": random.randint(30, 400) if called_before else None,
        "previous": random.randint(1, 5) if called_before else 0,
        "poutcome": random.choices(["failure", "other", "success"], [6, 2, 2])[0] if called_before else None,
    }


def _known(random: Random, values: tuple[str, ...], share: float) -> str | None:
    return random.choice(values) if random.random() < share else None
