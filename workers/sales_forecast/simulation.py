"""Invented articles and their sales, for demos and benchmarks: drawn from no data set."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from random import Random

from schemas.sales import HISTORY_DAYS, ArticleDayEvent

START = date(2024, 5, 1)
ARTICLES = 3_000
"""The number of articles; their day ends at the same time, with one event each."""


def article_day(random: Random, number: int) -> ArticleDayEvent:
    """Event `number`: one article after the other, then all articles again a day later."""
    article, days = number % ARTICLES, number // ARTICLES
    habits = Random(f"article {article}")  # noqa: S311  an article has the same demand every day
    chance, pieces = habits.betavariate(1, 2), habits.lognormvariate(2, 1)
    sold = [round(random.expovariate(1 / pieces)) if random.random() < chance else 0 for _ in range(HISTORY_DAYS)]
    day = START + timedelta(days=days)
    return ArticleDayEvent(
        event_id=f"A-{article:05}-{day}",
        occurred_at=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1),
        article=f"A-{article:05}",
        day=day,
        pieces=tuple(sold),
    )
