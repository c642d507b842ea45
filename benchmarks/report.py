"""Figures for programs and a table for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

RESULTS = Path(__file__).resolve().parent / "results"


class Figure(NamedTuple):
    """One measured value, and what it is held against; `goal` is in words, `ok` whether it is reached."""

    what: str
    ours: float
    against: float | None
    ratio: float | None
    goal: str
    ok: bool
    command: str


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


def at_most(what: str, ours: float, goal: float, command: str) -> Figure:
    """A value that must not pass `goal`."""
    return Figure(what, round(ours, 4), None, None, f"<= {goal:g}", ours <= goal, command)


def shown(what: str, ours: float, command: str) -> Figure:
    """A value without a goal."""
    return Figure(what, round(ours, 4), None, None, "", True, command)


def write(figures: Sequence[Figure], path: Path) -> None:
    """Keep the figures as a JSON list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([figure._asdict() for figure in figures], indent=2) + "\n", encoding="utf-8")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the heads, as a Markdown table that is aligned for the eye too."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on, and how busy it is; without that a figure says nothing."""
    load = os.getloadavg()[0]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {gpu}, Python {platform.python_version()}, "
        f"torch {torch.__version__}; load {load:.1f}"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
