"""What a long run has found: kept as JSON a phase at a time, held against the goals, shown as a table."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import Figure, at_least, at_most, exactly, table
from tests.faults.worker_main import POINTS

COMMAND = "python -m tests.faults"
RECOVERY_S = 10.0
GOALS: Mapping[str, Mapping[str, int]] = {
    "kills": {"kill -9 of a worker": 200},
    "brokers": {"kill -9 of a broker": 20, "SIGSTOP of a broker": 20},
    "rebalances": {"rebalance, classic": 250, "rebalance, consumer": 250},
    "ambiguous": {"ambiguous EndTxn": 100},
}
"""The faults that each phase must bring about."""
EACH_POINT = 5
EVENTS = 1_000_000
WRONGS = ("lost", "duplicated", "reordered", "wrong", "torn", "left_open")
"""What must be nought."""


@dataclass
class Phase:
    """What came of one phase. `recovery_s` are the seconds from each fault until all that had been written by then was
    answered, by what they are of."""

    name: str
    share: float
    seconds: float = 0.0
    events: int = 0
    transactions: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    wrong: int = 0
    torn: int = 0
    left_open: int = 0
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def recovered(self, what: str, seconds: float) -> None:
        """Note one more recovery."""
        self.recovery_s.setdefault(what, []).append(round(seconds, 3))

    def exact(self) -> bool:
        """Whether nothing is wrong."""
        return not any(getattr(self, name) for name in WRONGS)


def keep(phase: Phase, path: Path) -> None:
    """Write the phase over an earlier one of its name, beside those of other names."""
    phases = {**load(path), phase.name: phase}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([vars(phases[name]) for name in GOALS if name in phases], indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Phase]:
    """The phases that are kept; none where there is no file."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {row["name"]: _phase(row) for row in rows}


def figures(phases: Mapping[str, Phase], share: float, names: Sequence[str] = tuple(GOALS)) -> list[Figure]:
    """Everything that has a goal; a phase that is not there has reached none."""
    asked = [phases.get(name, Phase(name, share)) for name in names]
    found: list[Figure] = []
    if set(names) == set(GOALS):
        found.append(at_least("events", sum(phase.events for phase in asked), None, share * EVENTS, COMMAND))
    for phase in asked:
        command = f"{COMMAND} --only {phase.name}"
        for what, count in GOALS[phase.name].items():
            found.append(at_least(f"{what}, times", phase.faults[what], None, math.ceil(share * count), command))
        found.append(at_least(f"{phase.name}: events", phase.events, None, 1, command))
        found += [exactly(f"{phase.name}: {what}", getattr(phase, what), 0, command) for what in WRONGS]
    if "kills" in names:
        found += _of_kills(phases.get("kills", Phase("kills", share)), share)
    return found


def _of_kills(phase: Phase, share: float) -> list[Figure]:
    command = f"{COMMAND} --only kills"
    classic = phase.recovery_s.get("classic", [])
    slowest = at_most(
        "recovery after kill -9, classic protocol, slowest, s",
        max(classic, default=math.inf),
        None,
        RECOVERY_S,
        command,
    )
    if share < 1:
        return [slowest]
    fewest = min(phase.points[point] for point in POINTS)
    return [
        slowest,
        at_least(f"kill -9 at the rarest of {len(POINTS)} steps, times", fewest, None, EACH_POINT, command),
    ]


def summary(phases: Mapping[str, Phase]) -> str:
    """One row a phase, as a Markdown table."""
    rows = [
        [
            "phase",
            "events",
            "faults injected",
            "lost",
            "duplicated",
            "reordered",
            "torn",
            "recovery p50 / p99 / slowest",
        ]
    ]
    for phase in phases.values():
        faults = ", ".join(f"{count} {what}" for what, count in phase.faults.items())
        wrongs = [str(count) for count in (phase.lost, phase.duplicated, phase.reordered, phase.torn)]
        rows.append([phase.name, f"{phase.events:,}", faults, *wrongs, _recovery(phase.recovery_s)])
    return table(rows)


def _recovery(recovery_s: Mapping[str, Sequence[float]]) -> str:
    return "; ".join(
        f"{what} {quantile(values, 0.5):.1f} / {quantile(values, 0.99):.1f} / {max(values):.1f} s"
        for what, values in recovery_s.items()
        if values
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _phase(row: dict[str, object]) -> Phase:
    phase = Phase(**row)  # type: ignore[arg-type]
    phase.faults, phase.points = Counter(phase.faults), Counter(phase.points)
    return phase
