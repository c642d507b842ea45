"""Forecasts beside what then happened, as a page."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import torch

from schemas import Expected
from schemas.sales import HISTORY_DAYS, HORIZON_DAYS
from workers.sales_forecast.history import History
from workers.sales_forecast.measures import wape

SHOWN = 6
"""Articles, those that had sold most before the first forecast."""
Forecasts = Mapping[tuple[str, date], Expected]

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2rem 1rem .2rem 0;text-align:left}"
    "svg{width:100%;height:auto}h1{font-size:1.5rem}"
)


def weekly_error(history: History, forecasts: Forecasts) -> float | None:
    """The WAPE of what was forecast in the stream, by the six weekly origins that everybody is measured by; None while
    one of them is not there yet."""
    articles, days = history.articles, {day for _, day in forecasts}

    def said(origin: int) -> torch.Tensor:
        day = history.day(origin - 1)
        chosen = history.forecast(origin).nonzero().flatten().tolist()
        found = [forecasts.get((articles[place], day)) for place in chosen]
        # Of an article that sold nothing for as long as is remembered nothing is told.
        nothing = 0.0 if day in days else math.nan
        return torch.tensor([nothing if one is None else one.middle for one in found])

    error = wape(history, said)
    return None if math.isnan(error) else error


def write(path: Path, history: History, forecasts: Forecasts, rows: Sequence[tuple[str, str]]) -> None:
    """The page: figures, and plots of single articles."""
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(said)}</td></tr>" for name, said in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Forecast and sold</title>'
        f"<style>{STYLE}</style><h1>What was forecast, and what was then sold</h1><table>{cells}</table>"
        "<p>Each day, for the seven days after it: the middle of the forecast and the range from low to high, made in "
        f"the stream when the day was over; and the pieces that were then sold. The articles are those that "
        f"had sold most in the eight weeks before.</p>{_plots(history, forecasts)}",
        encoding="utf-8",
    )


def _plots(history: History, forecasts: Forecasts) -> str:
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    days = sorted({day for _, day in forecasts})
    sold = {article: history.pieces[place] for place, article in enumerate(history.articles)}
    first = (days[0] - history.start).days if days else 0
    largest = sorted(sold, key=lambda article: -float(sold[article][max(0, first - HISTORY_DAYS) : first].sum()))[
        :SHOWN
    ]
    figure = Figure(figsize=(9, 2.2 * SHOWN), layout="constrained")
    for axes, article in zip(figure.subplots(SHOWN, 1, sharex=True), largest, strict=True):
        mine = [(day, forecasts[article, day]) for day in days if (article, day) in forecasts]
        when = [day for day, _ in mine]
        axes.fill_between(when, [one.low for _, one in mine], [one.high for _, one in mine], alpha=0.2, label="range")
        axes.plot(when, [one.middle for _, one in mine], label="forecast")
        known = [day for day in days if day + timedelta(days=HORIZON_DAYS) <= history.day(history.pieces.shape[1] - 1)]
        axes.plot(known, [_after(history, sold[article], day) for day in known], "k.-", label="then sold")
        axes.set_title(f"article {article}", loc="left")
        axes.set_ylabel("pieces in 7 days")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(ncols=3)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def _after(history: History, pieces: torch.Tensor, day: date) -> float:
    place = (day - history.start).days + 1
    return float(pieces[place : place + HORIZON_DAYS].sum())
