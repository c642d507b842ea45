"""Online Retail as articles' days, and the origins and articles of the forecasts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import torch

from schemas.sales import HISTORY_DAYS, HORIZON_DAYS
from workers.datasets import read
from workers.sales_forecast.days import ARTICLE

SOLD_DAYS_MIN = 20
"""The number of days on which an article must have sold before it is forecast."""
ORIGINS = 6
"""Weekly forecasts over the last six weeks of the file, which training never sees."""


@dataclass(frozen=True)
class History:
    """`pieces`, float32 [articles, days]: the sales of each article on each day from `start` on."""

    articles: list[str]
    start: date
    pieces: torch.Tensor

    def forecast(self, origin: int) -> torch.Tensor:
        """Which articles are forecast from the day with this index on, bool [articles]."""
        return (self.pieces[:, :origin] > 0).sum(1) >= SOLD_DAYS_MIN

    def origins(self) -> list[int]:
        """The first days ahead of the weekly forecasts by which every model is measured, oldest first."""
        days = self.pieces.shape[1]
        return [days - HORIZON_DAYS * back for back in range(ORIGINS, 0, -1)]

    def window(self, origin: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """For the articles that are forecast: 56 days before the origin, 7 days from it on, and its weekday."""
        chosen = self.forecast(origin)
        before = self.pieces[chosen, origin - HISTORY_DAYS : origin]
        return before, self.pieces[chosen, origin : origin + HORIZON_DAYS], self.day(origin).weekday()

    def day(self, index: int) -> date:
        """The date of a day by its index."""
        return self.start + timedelta(days=index)


def load(path: Path) -> History:
    """Read the file of invoice lines, without cancellations, adjustments, write-offs, gifts and non-articles.

    Raises:
        FileNotFoundError: there is no such file; the message says where to get it.
    """
    sold: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    rows = read(path, "online_retail")
    start = date.fromisoformat(rows[0]["InvoiceDate"][:10])
    end = start
    for row in rows:
        article, pieces = row["StockCode"].upper(), int(row["Quantity"])
        end = date.fromisoformat(row["InvoiceDate"][:10])
        paid = pieces > 0 and float(row["UnitPrice"]) > 0 and row["InvoiceNo"].isdecimal()
        if paid and ARTICLE.fullmatch(article):
            sold[article][(end - start).days] += pieces
    articles = sorted(sold)
    table = torch.zeros(len(articles), (end - start).days + 1)
    for place, article in enumerate(articles):
        for day, pieces in sold[article].items():
            table[place, day] = pieces
    return History(articles, start, table)
