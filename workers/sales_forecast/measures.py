"""The error of a forecast, and of the plainest ones for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from schemas.sales import HORIZON_DAYS
from workers.sales_forecast.history import History

Plain = Callable[[torch.Tensor], torch.Tensor]
"""Maps the pieces of the days before, float32 [articles, 56], to the total of the next seven days, [articles]."""

PLAIN: Mapping[str, Plain] = {
    "last week": lambda before: before[:, -HORIZON_DAYS:].sum(1),
    "mean of 28 days": lambda before: before[:, -28:].mean(1) * HORIZON_DAYS,
}


def wape(history: History, forecast: Callable[[int], torch.Tensor]) -> float:
    """The sum of the errors divided by the sum of the sales, of the seven-day totals of every article, over all weekly
    origins. `forecast` gives the pieces, [articles], of the articles that are forecast from an origin."""
    wrong = sold = 0.0
    for origin in history.origins():
        _, after, _ = history.window(origin)
        total = after.sum(1)
        wrong += float((forecast(origin) - total).abs().sum())
        sold += float(total.sum())
    return wrong / sold


def plain(history: History) -> dict[str, float]:
    """The WAPE of each of the plain forecasts."""

    def by(rule: Plain) -> Callable[[int], torch.Tensor]:
        return lambda origin: rule(history.window(origin)[0])

    return {name: wape(history, by(rule)) for name, rule in PLAIN.items()}
