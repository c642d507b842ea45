"""Repetitions in turns: what else the machine does then hits all that is compared alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from confluent_kafka import KafkaException

from benchmarks import report
from benchmarks.verdict import Verdict
from tests.services import ServiceError


class Outcome(Protocol):
    """What one run gives; its `str` is one line about it."""

    @property
    def verdict(self) -> Verdict: ...


R = TypeVar("R", bound=Outcome)


class Entry(NamedTuple, Generic[R]):
    """Something to run; `missing` says what it lacks here and how to get it, and is empty when it can run."""

    name: str
    run: Callable[[], R]
    missing: str = ""


class Result(NamedTuple, Generic[R]):
    """The runs of an entry; it is `missing` something, or a `failure` says why there are no more."""

    name: str
    runs: list[R]
    missing: str
    failure: str = ""

    @property
    def faults(self) -> int:
        """How many outputs of all runs are lost, repeated or wrong; a failure counts as one."""
        return sum(run.verdict.faults for run in self.runs) + bool(self.failure)


def take_turns(entries: Sequence[Entry[R]], repetitions: int) -> list[Result[R]]:
    """Run each so often, one after the other; one that fails is left out from then on."""
    results = [Result[R](entry.name, [], entry.missing) for entry in entries]
    for entry in entries:
        if entry.missing:
            report.tell(f"{entry.name}: {entry.missing}")
    for repetition in range(repetitions):
        for at, entry in enumerate(entries):
            if entry.missing or results[at].failure:
                continue
            where = f"{repetition + 1}/{repetitions}  {entry.name}"
            try:
                run = entry.run()
            except (ServiceError, KafkaException) as error:
                results[at] = results[at]._replace(failure=str(error))
                report.tell(f"{where}: failed: {error}")
            else:
                results[at].runs.append(run)
                report.tell(f"{where}: {run}")
    return results


def absent(results: Sequence[Result[R]]) -> list[str]:
    """A line for each that is missing or has failed, and why: the last line of what it said."""
    return [
        f"{one.name}: {one.missing or 'failed: ' + one.failure.strip().splitlines()[-1]}"
        for one in results
        if one.missing or one.failure
    ]
