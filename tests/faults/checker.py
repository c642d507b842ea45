"""The oracle: what went in and what a read_committed reader finds, compared record by record."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Place = tuple[str, int, int]
"""Topic, partition and offset of a source record."""

Outcome = Literal["prediction", "dead letter", "skip"]


@dataclass(frozen=True)
class Input:
    """One record of the source topic, and what must become of it."""

    place: Place
    key: bytes | None
    outcome: Outcome
    event_id: str = ""
    double: float = 0.0


@dataclass(frozen=True)
class Output:
    """One prediction or dead letter: the source that it names, and where it lies."""

    place: Place
    key: bytes | None
    outcome: Outcome
    topic: str
    partition: int
    event_id: str = ""
    double: float = 0.0
    prediction_id: str = ""
    offset: int = -1


@dataclass
class Report:
    """What is not as it should be; each list empty when all is well."""

    inputs: int
    lost: list[Place] = field(default_factory=list)
    duplicated: list[Place] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    foreign: list[Place] = field(default_factory=list)

    @property
    def complaints(self) -> dict[str, int]:
        """How many of each, without those that are none."""
        found = {name: len(getattr(self, name)) for name in ("lost", "duplicated", "reordered", "wrong", "foreign")}
        return {name: count for name, count in found.items() if count}

    def __str__(self) -> str:
        lines = [f"{self.inputs} inputs, {self.complaints or 'exact'}"]
        lines += [f"  {name}: {getattr(self, name)[:5]}" for name in self.complaints]
        return "\n".join(lines)


def check(inputs: Sequence[Input], outputs: Sequence[Output]) -> Report:
    """Compare. `outputs` are in offset order per output partition."""
    report = Report(len(inputs))
    known = {given.place: given for given in inputs}
    seen = Counter(output.place for output in outputs)
    report.lost = [given.place for given in inputs if given.outcome != "skip" and not seen[given.place]]
    report.duplicated = [place for place, count in seen.items() if count > 1]
    report.foreign = [place for place in seen if place not in known]
    for output in outputs:
        if (given := known.get(output.place)) is not None:
            report.wrong += _wrong(given, output)
    report.reordered = _reordered(outputs)
    return report


def _wrong(given: Input, output: Output) -> list[str]:
    pairs: list[tuple[str, Hashable, Hashable]] = [
        ("outcome", given.outcome, output.outcome),
        ("key", given.key, output.key),
    ]
    if output.outcome == "prediction":
        topic, partition, offset = given.place
        pairs += [
            ("double", given.double, output.double),
            ("event_id", given.event_id, output.event_id),
            ("prediction_id", f"echo/{topic}/{partition}/{offset}", output.prediction_id),
        ]
    return [f"{given.place}: {name} {got!r}, not {want!r}" for name, want, got in pairs if want != got]


def _reordered(outputs: Sequence[Output]) -> list[str]:
    """Order per source partition and per key, by the first time that each output appears."""
    found = []
    last: dict[Hashable, int] = defaultdict(lambda: -1)
    homes: dict[Hashable, int] = {}
    first = set()
    for output in outputs:
        topic, partition, offset = output.place
        if output.place in first:
            continue
        first.add(output.place)
        for stream in ((output.topic, "partition", topic, partition), (output.topic, "key", topic, output.key)):
            if homes.setdefault(stream, output.partition) != output.partition:
                found.append(f"{stream}: offset {offset} lies in another partition than those before")
            if offset <= last[stream, output.partition]:
                found.append(f"{stream}: offset {offset} after {last[stream, output.partition]}")
            last[stream, output.partition] = offset
    return found
