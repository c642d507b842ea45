"""Online Retail as customers' invoices: the features at each, and whether the customer bought again."""

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
"""The last days whose answers the file holds. Training sees neither them nor an answer that reaches into them."""
FIRST_DAYS = 28
"""These first days are not used, because no customer is known yet."""


@dataclass(frozen=True)
class Examples:
    """For every invoice with a purchase: `features`, float32 [invoices, 24], with this invoice counted; its `day` since
    1970, int64; `again`, float32, 1 if the customer bought on one of the next 28 days; and `since`, float32, days since
    the customer's previous purchase, 1000 for a first one."""

    features: torch.Tensor
    day: torch.Tensor
    again: torch.Tensor
    since: torch.Tensor
    last: int
    """The last day with a purchase."""

    def splits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The invoices to train on and to test on, bool [invoices]: split by time."""
        tested = self.last - AHEAD_DAYS - TESTED_DAYS + 1
        first = int(self.day[0]) + FIRST_DAYS
        train = (self.day >= first) & (self.day < tested - AHEAD_DAYS)
        return train, (self.day >= tested) & (self.day <= self.last - AHEAD_DAYS)


def load(path: Path) -> list[InvoiceEvent]:
    """The invoices of the file in the order of time.

    Raises:
        FileNotFoundError: there is no such file; the message says where to get it.
    """
    lines: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read(path, "online_retail"):
        if float(row["UnitPrice"]) >= 0:  # negative prices are adjustments of bad debts
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
    """The features at each invoice of a known customer, by the same windows as in the stream, and the answers."""
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
