"""The long run: what it counts, and that a lost or repeated answer shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.longrun import P99_MAX_MS, Timed, figures, waits_of


def reader(numbers: list[int], count: int) -> Any:
    made = SimpleNamespace(received_s=np.zeros(count), count=0, again=0)
    Timed.take(made, [SimpleNamespace(key=lambda number=number: b"%09d" % number) for number in numbers])
    return made


def test_each_event_has_one_answer_and_those_before_the_cut_are_not_timed() -> None:
    made = reader(list(range(10)), 10)
    made.received_s[:] = np.arange(10) + 0.010
    made.received_s[0] += 5.0  # the slow start
    waits = waits_of(np.arange(10, dtype=float), made, cut=1)
    assert (waits.events, waits.missing, waits.again) == (10, 0, 0)
    assert waits.ms["max"] == pytest.approx(10)
    assert all(figure.ok for figure in figures(waits, "long run", "command"))


def test_a_lost_and_a_repeated_answer_are_told() -> None:
    waits = waits_of(np.ones(5), reader([0, 1, 2, 2, 4], 5), cut=0)
    assert (waits.missing, waits.again) == (1, 1)
    assert not figures(waits, "long run", "command")[0].ok


def test_a_slow_hundredth_misses_the_goal() -> None:
    made = reader(list(range(1_000)), 1_000)
    made.received_s[:] = 1.010
    made.received_s[-20:] += 2 * P99_MAX_MS / 1000
    waits = waits_of(np.ones(1_000), made, cut=0)
    assert waits.ms["p95"] == pytest.approx(10)
    assert not figures(waits, "long run", "command")[-1].ok
