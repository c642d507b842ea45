"""What a user's own file imports comes from `streamer`, and only what is asked for is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import streamer
from streamer import panes, worker

HEAVY = ("torch", "confluent_kafka", "pydantic", "redis")


@pytest.mark.parametrize("name", streamer.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(streamer, name) is not None
    assert name in dir(streamer)


def test_a_public_name_is_the_one_of_its_home() -> None:
    assert streamer.Worker is worker.Worker
    assert streamer.Window is panes.Window


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Wroker'"):
        _ = streamer.Wroker


@pytest.mark.parametrize(
    ("code", "without"),
    [("import streamer", HEAVY), ("from streamer import Worker, Window, Days, Event", ("torch", "confluent_kafka"))],
)
def test_only_what_is_asked_for_is_imported(code: str, without: tuple[str, ...]) -> None:
    told = f"{code}\nimport sys\nprint(*[one for one in {without!r} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
