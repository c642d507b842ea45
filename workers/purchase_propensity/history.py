"""Online Retail as customers' invoices: what was known at each, and whether the customer came back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from schemas import InvoiceEvent, InvoiceLine
from streamer.features.entities import Entities, Kept
from streamer.panes import DAY_S, time_of
from workers.datasets import read
from workers.purchase_propensity.windows import NAMES, WINDOWS, bought

AHEAD_DAYS = 28
TESTED_DAYS = 28
"""The last days whose answers the file holds: what training never sees, nor any answer that reaches into them."""
FIRST_DAYS = 28
"""Before it nobody is known yet."""


@dataclass(frozen=True)
class Examples:
    """Of every invoice on which something was bought: `features`, float32 [invoices, 24], as they were with it; its
    `day` since 1970, int64; `again`, float32, 1 if the customer bought on one of the next 28 days; and `since`,
    float32, days since the customer bought before, 1000 of a first purchase."""

    features: torch.Tensor
    day: torch.Tensor
    again: torch.Tensor
    since: torch.Tensor
    last: int
    """The last day with a purchase."""

    def splits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Which to train on and which to test on, bool [invoices]: by time."""
        tested = self.last - AHEAD_DAYS - TESTED_DAYS + 1
        first = int(self.day[0]) + FIRST_DAYS
        train = (self.day >= first) & (self.day < tested - AHEAD_DAYS)
        return train, (self.day >= tested) & (self.day <= self.last - AHEAD_DAYS)


def load(path: Path) -> list[InvoiceEvent]:
    """The invoices of the file by time.

    Raises:
        FileNotFoundError: it is not there; the message says where to get it.
    """
    lines: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read(path, "online_retail"):
        if float(row["UnitPrice"]) >= 0:  # below it are bad debts that were adjusted
            lines[row["InvoiceNo"], row["CustomerID"].removesuffix(".0")].append(row)
    invoices = [
        InvoiceEvent(
            event_id=invoice,
            occurred_at=datetime.fromisoformat(rows[0]["InvoiceDate"]).replace(tzinfo=UTC),
            invoice_id=invoice,
            customer_id=customer or None,
            lines=tuple(_line(row) for row in rows),
        )
        for (invoice, customer), rows in lines.items()
    ]
    return sorted(invoices, key=lambda invoice: invoice.occurred_at)


def _line(row: Mapping[str, str]) -> InvoiceLine:
    return InvoiceLine(article=row["StockCode"].upper(), pieces=int(row["Quantity"]), price=float(row["UnitPrice"]))


def examples(invoices: Sequence[InvoiceEvent]) -> Examples:
    """What was known at each invoice of a known customer, by the windows that the stream has, and what came of it."""
    entities, customers = Entities(WINDOWS), defaultdict[str, Kept](Kept)
    days: dict[str, list[int]] = defaultdict(list)
    asked: list[tuple[str, int]] = []
    features: list[list[float]] = []
    for offset, invoice in enumerate(invoices):
        if invoice.customer_id is None:
            continue
        known, _ = entities.known(customers[invoice.customer_id], invoice, offset)
        if bought(invoice):
            features.append([known[name] for name in NAMES])
            asked.append((invoice.customer_id, time_of(invoice) // (1000 * DAY_S)))
            days[invoice.customer_id].append(asked[-1][1])
    again = [any(day < other <= day + AHEAD_DAYS for other in days[customer]) for customer, day in asked]
    since = [min((day - other for other in days[customer] if other < day), default=1000) for customer, day in asked]
    return Examples(
        torch.tensor(features),
        torch.tensor([day for _, day in asked]),
        torch.tensor(again, dtype=torch.float32),
        torch.tensor(since, dtype=torch.float32),
        max(day for _, day in asked),
    )
