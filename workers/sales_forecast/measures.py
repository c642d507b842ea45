"""How wrong a forecast is, and how wrong the plainest ones are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from schemas.sales import HORIZON_DAYS
from workers.sales_forecast.history import History

Plain = Callable[[torch.Tensor], torch.Tensor]
"""From pieces of the days before, float32 [articles, 56], to pieces of the next seven days together, [articles]."""

PLAIN: Mapping[str, Plain] = {
    "last week": lambda before: before[:, -HORIZON_DAYS:].sum(1),
    "mean of 28 days": lambda before: before[:, -28:].mean(1) * HORIZON_DAYS,
}


def wape(history: History, forecast: Callable[[int], torch.Tensor]) -> float:
    """Sum of the errors over the sum of the sales, of the next seven days' total of every article, over all weekly
    origins. `forecast` gives pieces, [articles], of those that are forecast from an origin."""
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
