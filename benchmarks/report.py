"""Figures for programs and a table for people."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

BUSY = 0.7
"""A load average that an idle machine does not have."""
BEGAN_S = time.monotonic()
RESULTS = Path(__file__).resolve().parent / "results"


class Figure(NamedTuple):
    """One measured value, and what it is held against; `goal` is in words, `ok` whether it is reached, `runs` the
    values that `ours` is the median of. A value that could not be measured is not a number."""

    what: str
    ours: float
    against: float | None
    ratio: float | None
    goal: str
    ok: bool
    command: str
    runs: tuple[float, ...] = ()


def exactly(what: str, ours: int, wanted: int, command: str) -> Figure:
    """A count that must be what it is held against."""
    return Figure(what, ours, wanted, ours / wanted if wanted else None, f"= {wanted}", ours == wanted, command)


def at_least(what: str, ours: float, against: float | None, goal: float, command: str) -> Figure:
    """A value that must reach `goal`: as a share of `against` where that is known, else by itself."""
    ratio = ours / against if against else None
    reached = ours if against is None else ratio or 0.0
    of = "" if against is None else " of it"
    return Figure(
        what, round(ours, 4), _rounded(against), _rounded(ratio), f">= {goal:g}{of}", reached >= goal, command
    )


def at_most(what: str, ours: float, against: float | None, goal: float, command: str) -> Figure:
    """A value that must not pass `goal`: as a multiple of `against` where that is known, else by itself."""
    ratio = ours / against if against else None
    reached = ours if against is None else math.inf if ratio is None else ratio
    of = "" if against is None else " of it"
    return Figure(
        what, round(ours, 4), _rounded(against), _rounded(ratio), f"<= {goal:g}{of}", reached <= goal, command
    )


def shown(what: str, ours: float, command: str) -> Figure:
    """A value without a goal."""
    return Figure(what, round(ours, 4), None, None, "", True, command)


def middle(what: str, values: Sequence[float], command: str) -> Figure:
    """The median of several runs, without a goal."""
    return shown(what, median(values), command)._replace(runs=tuple(round(value, 4) for value in values))


def write(figures: Sequence[Figure], path: Path) -> None:
    """Keep the figures as a JSON list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row._asdict().items()
        }
        for row in figures
    ]
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the heads, as a Markdown table that is aligned for the eye too."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def goals(figures: Sequence[Figure]) -> str:
    """Every figure that has a goal, and whether it is reached, as a table."""
    rows = [["what", "ours", "against", "ratio", "goal", "reached"]]
    rows += [
        [
            figure.what,
            _shown(figure.ours),
            _shown(figure.against),
            _shown(figure.ratio),
            figure.goal,
            "yes" if figure.ok else "NO",
        ]
        for figure in figures
        if figure.goal
    ]
    return table(rows)


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the range of several values in brackets; what is not a number is left out."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return ""
    if len(values) == 1:
        return format(values[0], form)
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def tell(line: str) -> None:
    """Progress, with the seconds since the start of the process."""
    print(f"{time.monotonic() - BEGAN_S:6.0f} s  {line}", file=sys.stderr, flush=True)


def busy() -> str:
    """A warning where the machine does something else; empty where it does not."""
    load = os.getloadavg()[0]
    return f"the machine is busy (load {load:.1f}): do not quote these figures" if load > BUSY else ""


def machine() -> str:
    """What the figures were measured on, and how busy it is; without that a figure says nothing."""
    load = os.getloadavg()[0]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {gpu}, Python {platform.python_version()}, "
        f"torch {torch.__version__}; load {load:.1f}"
    )


def _shown(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
