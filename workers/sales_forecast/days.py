"""Makes articles' days from invoices: one event for each article when a day is over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date

from schemas import ArticleDayEvent, InvoiceEvent
from schemas.sales import HISTORY_DAYS
from streamer.days import Days, end_of

ARTICLE = re.compile(r"\d{5}[A-Z]*")
"""Five digits, and letters for variants; postage, discounts and fees are no articles."""


def sold(invoice: InvoiceEvent) -> Iterator[tuple[str, int]]:
    """Article and pieces of each line that was paid for, without returns, cancellations and gifts."""
    for line in invoice.lines:
        if line.pieces > 0 and line.price > 0 and ARTICLE.fullmatch(line.article):
            yield line.article, line.pieces


def told(article: str, day: date, pieces: Sequence[int]) -> ArticleDayEvent:
    """The event of an article's day that is over, dated at the end of the day."""
    return ArticleDayEvent(
        event_id=f"{article}/{day}", occurred_at=end_of(day), article=article, day=day, pieces=tuple(pieces)
    )


DAYS = Days(InvoiceEvent, sold, told, lambda event: event.pieces, HISTORY_DAYS)
