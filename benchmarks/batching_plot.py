"""Scores of the batching benchmark as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.batching_scores import Score

LINES: dict[str, dict[str, Any]] = {
    "streamer": {"color": "#0b5fa5", "linewidth": 2.6, "marker": "o"},
    "streamer, budget only": {"color": "#0b5fa5", "linestyle": "--", "marker": "s"},
    "streamer, goal only": {"color": "#0b5fa5", "linestyle": ":", "marker": "^"},
    "fixed 16, 5 ms": {"color": "#d98200", "marker": "v"},
    "fixed 64, 10 ms": {"color": "#b5321f", "marker": "D"},
    "fixed 256, 20 ms": {"color": "#6d3a9c", "marker": "P"},
    "fixed 64, 0 ms": {"color": "#777777", "marker": "x"},
}


def draw(scores: Sequence[Score], path: Path) -> None:
    """Write a PNG: a row for each profile; goodput over load for each shape, and the time to drain the backlog."""
    profiles = list(dict.fromkeys(score.profile for score in scores))
    shapes = list(dict.fromkeys(score.shape for score in scores))
    figure = Figure(figsize=(16, 3.7 * len(profiles) + 0.9), layout="constrained")
    grid = figure.subplots(len(profiles), len(shapes) + 1, squeeze=False)
    for row, profile in zip(grid, profiles, strict=True):
        of_profile = [score for score in scores if score.profile == profile]
        for axes, shape in zip(row, shapes, strict=False):
            _lines(axes, [(s.contender, s.load, 100 * s.goodput) for s in of_profile if s.shape == shape])
            axes.set(title=f"{profile}: {shape}", ylabel="answered within 50 ms, in order (%)", ylim=(-3, 103))
        drained = [(s.contender, s.load, s.drained_s) for s in of_profile if s.drained_s is not None]
        _lines(row[-1], drained)
        row[-1].set(title=f"{profile}: backlog of 2 s of work", ylabel="drained after (s)", ylim=(0, None))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)


def _lines(axes: Any, points: Sequence[tuple[str, float, float]]) -> None:
    for name, style in LINES.items():
        own = sorted((load, value) for contender, load, value in points if contender == name)
        axes.plot([100 * load for load, _ in own], [value for _, value in own], label=name, markersize=5, **style)
    axes.set_xlabel("load (% of the best possible rate)")
    axes.set_xticks([20, 40, 60, 80, 95])
    axes.grid(alpha=0.3)
