"""What a checkpoint may expect of a committer: one suite, on the shipped fake and on real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from streamer.clock import Deadline
from streamer.engine.committer import GRACE_S, ThreadCommitter
from streamer.errors import Aborted, Internal, Temporary, Unclear
from streamer.testing import FakeCommitter, ManualClock


def fake() -> tuple[Any, ManualClock]:
    clock = ManualClock()
    return FakeCommitter(clock, seconds=0.5), clock


def threads() -> tuple[Any, ManualClock]:
    clock = ManualClock()
    return ThreadCommitter(clock), clock


@pytest.fixture(params=[fake, threads], ids=["fake", "threads"])
def made(request: pytest.FixtureRequest) -> tuple[Any, ManualClock]:
    make: Callable[[], tuple[Any, ManualClock]] = request.param
    return make()


def until_ended(committer: Any) -> None:
    for _ in range(100):
        if committer.ended(0.1):
            return
    raise AssertionError("no end")


def test_a_commit_is_made_and_its_end_told_once(made: tuple[Any, ManualClock]) -> None:
    committer, clock = made
    calls: list[int] = []
    committer.start(lambda: calls.append(1), Deadline(clock, 10))
    until_ended(committer)
    assert calls == [1]
    with pytest.raises(Internal, match="no commit has begun"):
        committer.ended(0)


def test_what_the_commit_raises_is_raised_to_who_asks(made: tuple[Any, ManualClock]) -> None:
    committer, clock = made

    def fails() -> None:
        raise Aborted("no")

    committer.start(fails, Deadline(clock, 10))
    with pytest.raises(Aborted, match="no"):
        until_ended(committer)
    committer.start(lambda: None, Deadline(clock, 10))
    until_ended(committer)


def test_there_is_one_at_a_time(made: tuple[Any, ManualClock]) -> None:
    committer, clock = made
    committer.start(lambda: None, Deadline(clock, 10))
    with pytest.raises(Internal, match="before the last one"):
        committer.start(lambda: None, Deadline(clock, 10))
    until_ended(committer)


def test_one_that_does_not_come_back_is_left_behind_and_its_end_is_nobodys() -> None:
    committer, clock = threads()
    hung, left = threading.Event(), threading.Event()

    def hangs() -> None:
        hung.wait(60)
        left.set()

    committer.start(hangs, Deadline(clock, 1))
    assert not committer.ended(0.01)
    clock.sleep(1 + GRACE_S)
    with pytest.raises(Unclear, match="does not return"):
        committer.ended(0.01)
    committer.start(lambda: None, Deadline(clock, 1))
    hung.set()
    assert left.wait(10)
    until_ended(committer)
    with pytest.raises(Internal, match="no commit has begun"):
        committer.ended(0)


def test_a_machine_that_has_no_thread_left_ends_the_process_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    committer, clock = threads()
    committed = []

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        with pytest.raises(Temporary, match="raise the limit of threads"):
            committer.start(lambda: committed.append(1), Deadline(clock, 1))
    assert committed == []
    committer.start(lambda: None, Deadline(clock, 1))
    until_ended(committer)
