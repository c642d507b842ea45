"""The window features of a customer, from the invoices so far."""

from __future__ import annotations

from collections.abc import Sequence

from schemas import InvoiceEvent, InvoiceLine
from streamer import Window

SPANS = ("1d", "7d", "28d", "364d")


def bought(invoice: InvoiceEvent) -> Sequence[InvoiceLine]:
    """The lines that were bought and paid for, without returns and gifts."""
    return [line for line in invoice.lines if line.pieces > 0 and line.price > 0]


def _returned(invoice: InvoiceEvent) -> Sequence[InvoiceLine]:
    return [line for line in invoice.lines if line.pieces < 0]


def _worth(lines: Sequence[InvoiceLine]) -> float | None:
    """The worth in pounds; None without lines."""
    return sum(abs(line.pieces) * line.price for line in lines) if lines else None


WINDOWS = (
    Window("invoices", "count", lambda invoice: 1 if bought(invoice) else None, SPANS),
    Window("spent", "sum", lambda invoice: _worth(bought(invoice)), SPANS),
    Window("pieces", "sum", lambda invoice: sum(line.pieces for line in bought(invoice)), SPANS),
    Window("articles", "distinct", lambda invoice: [line.article for line in bought(invoice)], SPANS),
    Window("returns", "count", lambda invoice: 1 if _returned(invoice) else None, SPANS),
    Window("returned", "sum", lambda invoice: _worth(_returned(invoice)), SPANS),
)
NAMES = tuple(f"{window.name}_{span}" for window in WINDOWS for span in window.spans)
"""The names of the features, in the order of the tensor's columns."""
