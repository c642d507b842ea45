"""A cut of the simulation: many schedules hold, the same seed is the same schedule, and each planted bug is found.

All of it: `python -m tests.simulation`. The model under it is held to real Kafka by
`tests/integration/test_simulation_model.py`.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from streamer.slices import Lane
from tests.simulation.__main__ import play, play_many, quiet, replay, report
from tests.simulation.bugs import BUGS
from tests.simulation.schedule import World

SEEDS = range(500)


def test_every_promise_holds_in_five_hundred_schedules() -> None:
    played, found, faults = play_many(SEEDS, None)
    assert found == {}
    assert played == len(SEEDS)
    assert {"kill -9", "SIGSTOP", "EndTxn late", "freeze in a call", "two of one slot"} <= faults.keys()


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    with quiet():
        assert any(play(seed, bug)[0] for seed in SEEDS)


def test_a_seed_is_one_schedule() -> None:
    def told(seed: int) -> list[str]:
        lines: list[str] = []
        with quiet():
            World(seed, say=lines.append).run()
        return lines

    for seed in range(20):
        assert told(seed) == told(seed)


def test_a_seed_is_one_schedule_in_another_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the order of hashes nor the machine's clock has a say."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "3"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert replay(3, None) == 0
    assert capsys.readouterr().out == there
    assert "every promise held" in there


def test_a_failing_seed_is_printed_with_the_command_that_plays_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    played, found, faults = play_many(range(5), "positions behind")
    assert report(played, found, faults, 1.0, "positions behind") == 1
    (command,) = {line.strip() for line in capsys.readouterr().out.splitlines() if f"--seed {min(found)} " in line}
    assert command == f"python -m tests.simulation --seed {min(found)} --bug 'positions behind'"
    assert replay(min(found), "positions behind") == 1


def test_schedules_leave_nothing_behind() -> None:
    def lanes() -> int:
        gc.collect()
        return sum(type(one) is Lane for one in gc.get_objects())

    before = lanes()
    play_many(range(50), None)
    assert lanes() <= before
