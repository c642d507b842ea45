"""Charts of what was measured, drawn where matplotlib is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

INSTALL = "uv pip install --group bench"


class Bars(NamedTuple):
    """One bar a name: the median of its values, with a line from the lowest to the highest."""

    name: str
    title: str
    unit: str
    values: Mapping[str, Sequence[float]]


class Lines(NamedTuple):
    """One line a name, of points (x, y); x is drawn by its logarithm, so that points at 0 are left out."""

    name: str
    title: str
    along: str
    unit: str
    values: Mapping[str, Sequence[tuple[float, float]]]


def available() -> bool:
    """Whether charts can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(chart: Bars | Lines, folder: Path) -> Path:
    """Draw a chart as `<name>.svg`; needs matplotlib."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(chart.title)
    if isinstance(chart, Bars):
        _bars(axes, chart)
    else:
        _lines(axes, chart)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chart.name}.svg"
    figure.savefig(path, metadata={"Date": None})  # the same figures give the same file
    return path


def _bars(axes: Any, chart: Bars) -> None:
    names, runs = list(chart.values), list(chart.values.values())
    middles = [median(values) for values in runs]
    below = [middle - min(values) for middle, values in zip(middles, runs, strict=True)]
    above = [max(values) - middle for middle, values in zip(middles, runs, strict=True)]
    axes.barh(names, middles, xerr=[below, above], color="tab:blue", ecolor="black", capsize=3)
    for at, (middle, values) in enumerate(zip(middles, runs, strict=True)):
        text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
        axes.annotate(text, (max(values), at), xytext=(6, -3), textcoords="offset points")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(chart.unit)


def _lines(axes: Any, chart: Lines) -> None:
    for name, points in chart.values.items():
        axes.plot(*zip(*points, strict=True), label=name, marker=".")
    axes.set_xscale("log")
    axes.set_xlabel(chart.along)
    axes.set_ylabel(chart.unit)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
