"""How much is measured, with what, and what a section of the benchmark hands back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.plots import Bars, Lines
from benchmarks.report import Figure
from benchmarks.servers import Cluster

GUARANTEES = ("at_least_once", "exactly_once")


class Sizes(NamedTuple):
    """A run at saturation takes about `seconds` at the speed that is expected. `repetitions` are of what is held
    against others, `repetitions_short` of the rest. Latency is measured at `rates` for `latency_s` each, and of the
    shipped workers where `shipped_latency` says so; memory on backlogs of so many events."""

    seconds: float
    repetitions: int
    repetitions_short: int
    rates: tuple[int, ...]
    latency_s: float
    latency_repetitions: int
    shipped_latency: bool
    memory: tuple[int, ...]


FULL = Sizes(4.5, 3, 2, (1_000, 5_000), 6.0, 2, True, (10_000, 100_000, 1_000_000, 10_000_000))
FAST = Sizes(1.5, 1, 1, (1_000,), 3.0, 1, False, (100_000, 250_000))


class Bench(NamedTuple):
    """What every section is given: the servers, a folder for logs, and the sizes."""

    servers: Cluster
    folder: Path
    sizes: Sizes


class Findings(NamedTuple):
    """What a section found: figures for programs, text for people, charts for the eye; and how many outputs were
    lost, repeated or wrong, or contestants failed."""

    figures: Sequence[Figure]
    text: str
    charts: Sequence[Bars | Lines]
    faults: int


class Section(NamedTuple):
    """A part of the benchmark that can be run by itself."""

    name: str
    about: str
    measure: Callable[[Bench], Findings]
