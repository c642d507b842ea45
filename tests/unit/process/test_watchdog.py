"""A loop that stands still ends its process, and says where; one that turns does not."""

import subprocess
import sys

import pytest

from streamer.process.watchdog import EVERY_S, Watchdog

STUCK = """
import re
from streamer.process.watchdog import Watchdog

def spin():
    re.match(r"(a+)+$", "a" * 60 + "b")  # keeps the interpreter

Watchdog(0.5).beat(0.0)
spin()
"""


def test_a_call_that_keeps_the_interpreter_is_ended_with_its_stack() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in spin" in done.stderr


def test_each_beat_sets_the_time_anew_but_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda seconds, exit: calls.append(seconds))
    watchdog = Watchdog(7.0)
    for now in (0.0, EVERY_S / 2, EVERY_S, 2 * EVERY_S):
        watchdog.beat(now)
    assert calls == [7.0] * 3


def test_a_machine_without_a_free_thread_is_served_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(seconds: float, exit: bool) -> None:
        raise RuntimeError("unable to start watchdog thread")

    monkeypatch.setattr("faulthandler.dump_traceback_later", none_left)
    Watchdog(7.0).beat(0.0)
