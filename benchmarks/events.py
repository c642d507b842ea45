"""Events to measure with, as records that are ready to send: making them must not be what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from tests.data import FOLDER
from workers import datasets
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting

TEXTS = FOLDER / "banking77" / "train.csv.gz"
SEED = 7
DIFFERENT_LEADS = 5_000


class Record(NamedTuple):
    """One event, encoded."""

    event_id: str
    key: bytes
    value: bytes


def leads(count: int, run: str) -> list[Record]:
    """Leads that a cache has never seen, as each has a balance of its own. `run` makes ids differ between runs."""
    random, worker = Random(SEED), LeadScoring()
    people = [
        # All with consent: each event then has a prediction, and the counts are plain.
        worker.sample(random, number).model_copy(update={"consent": True}).model_dump(mode="json")
        for number in range(min(count, DIFFERENT_LEADS))
    ]
    records = []
    for number in range(count):
        name = f"{run}-{number}"
        lead = people[number % len(people)] | {"event_id": name, "lead_id": name, "balance": number}
        records.append(Record(name, name.encode(), msgspec.json.encode(lead)))
    return records


def tickets(count: int, run: str, texts: Sequence[str], repeated: float = 0.0) -> list[Record]:
    """Tickets with these texts, each but once as it is, then with a mark. The share `repeated` says again what an
    earlier one said, so that a cache can answer it."""
    random = Random(SEED)
    example = TicketRouting.example.model_dump(mode="json")
    records = []
    new = 0
    for number in range(count):
        if new and random.random() < repeated:
            of = random.randrange(new)
        else:
            of, new = new, new + 1
        event_id, name = f"{run}-event-{number}", f"{run}-{of}"
        again, which = divmod(of, len(texts))
        text = f"{texts[which]} ({again})" if again else texts[which]
        ticket = {"event_id": event_id, "ticket_id": name, "customer_id": name, "text": text}
        records.append(Record(event_id, name.encode(), msgspec.json.encode(example | ticket)))
    return records


def load_texts(file: Path = TEXTS) -> list[str]:
    """The texts of Banking77, in an order that mixes the intents.

    Raises:
        FileNotFoundError: the file is not there; the message says where its publisher keeps it.
    """
    texts = [row["text"] for row in datasets.read(file, "banking77")]
    Random(SEED).shuffle(texts)
    return texts
