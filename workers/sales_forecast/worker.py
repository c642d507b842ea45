"""Forecasts the sales of an article in the next seven days, when one of its days is over."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, date, datetime
from random import Random
from typing import Any

import torch

from schemas import ARTICLE_FORECASTS, ArticleDayEvent, ArticleForecast
from schemas.sales import HORIZON_DAYS
from streamer import Features, Model, Tensors, Worker
from workers.sales_forecast import simulation
from workers.sales_forecast.days import DAYS
from workers.sales_forecast.model import Network, Parameters, encode

LEVELS = ("low", "middle", "high")


class SalesForecast(Worker[ArticleDayEvent, ArticleForecast]):
    """Forecasts articles by day and for the week; the model card beside this file says how well, and for what not."""

    name = "sales-forecast"
    source = ArticleDayEvent.topic
    target = ARTICLE_FORECASTS
    event = ArticleDayEvent
    answer = ArticleForecast
    model = "sales-forecast"
    days = DAYS
    example = ArticleDayEvent(
        event_id="example",
        occurred_at=datetime(2024, 5, 2, tzinfo=UTC),
        article="example",
        day=date(2024, 5, 1),
        pieces=(0, 12, 3, 0, 0, 24, 6) * 8,
    )

    def load(self, model: Model, device: torch.device) -> None:
        network = Network(model.parameters(Parameters))
        model.fill(network)
        self._network = network.eval().to(device)

    def encode(self, events: Sequence[ArticleDayEvent], features: Sequence[Features]) -> Tensors:
        return encode(events)

    def predict(self, tensors: Tensors) -> Tensors:
        return {"pieces": self._network(tensors["pieces"], tensors["weekday"])}

    def decode(self, events: Sequence[ArticleDayEvent], outputs: Tensors) -> list[dict[str, Any]]:
        said = [[dict(zip(LEVELS, one, strict=True)) for one in row] for row in outputs["pieces"].tolist()]
        return [{"days": tuple(row[:HORIZON_DAYS]), "total": row[HORIZON_DAYS]} for row in said]

    def cache_key(self, event: ArticleDayEvent, features: Features) -> Hashable:
        return (event.day.weekday(), *event.pieces)

    def sample(self, random: Random, number: int) -> ArticleDayEvent:
        return simulation.article_day(random, number)

    def words(self, answer: ArticleForecast) -> str:
        total = answer.total
        return f"{total.middle:.0f} pieces in a week ({total.low:.0f} to {total.high:.0f})"
