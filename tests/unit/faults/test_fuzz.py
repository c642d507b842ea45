"""A cut of `python -m tests.fuzz`, and that the fuzzer would say so if something broke."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from streamer.wire import derive
from tests.fuzz import running
from tests.fuzz.__main__ import main
from tests.fuzz.mutation import Corpus
from tests.fuzz.targets import Broken, Target, targets


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.mark.parametrize("name", list(targets()))
def test_a_few_inputs_of_every_target_break_nothing(name: str) -> None:
    inputs = 100 if name.startswith("settings") else 2_000
    (tally,) = running.fuzz(inputs, 60, seed=2026, only=[name])
    assert (tally.crashes, tally.hangs) == (0, 0)
    assert tally.inputs >= inputs
    assert tally.outcomes > 1 or name == "cached-answer"  # it gets further than the first check; a cache never does


@pytest.mark.parametrize("name", list(targets()))
def test_every_seed_is_accepted_or_at_least_harmless(name: str) -> None:
    target = targets()[name]
    for seed in target.seeds:
        target.run(seed)


def test_the_same_seed_makes_the_same_inputs() -> None:
    made = []
    for _ in range(2):
        corpus = Corpus([b'{"a": 1, "b": [2]}', b"x = 1\n"], random.Random("7"))
        for number in range(500):
            made.append(corpus.next())
            corpus.learn(made[-1], number % 50)
    assert made[:500] == made[500:]
    assert len(set(made)) > 300


def broken(data: bytes) -> object:
    if b"NaN" in data:
        raise KeyError("planted")
    return len(data) % 10


def test_a_crash_is_counted_kept_and_replayed(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Target("planted", 1.0, [b'{"a": 1, "b": 2}'], broken)
    monkeypatch.setattr(running, "targets", lambda: {"planted": planted})
    (tally,) = running.fuzz(20_000, 60, seed=1)
    assert tally.crashes >= running.CRASHES_MAX
    path = next(kept.iterdir())
    assert f"python -m tests.fuzz --replay {path}" in capsys.readouterr().err
    with pytest.raises(KeyError, match="planted"):
        running.replay(path)


def test_a_hang_is_counted_and_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "HANG_S", 0.02)
    monkeypatch.setattr(running, "REPEATS", 2)
    planted = Target("planted", 1.0, [b"abc"], lambda data: time.sleep(0.03))
    monkeypatch.setattr(running, "targets", lambda: {"planted": planted})
    (tally,) = running.fuzz(1, 60, seed=1)
    assert tally.hangs == 1
    assert len(list(kept.iterdir())) == 1


def test_a_limit_that_one_way_of_reading_forgets_is_found(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derive, "depth", lambda value: 0)
    (tally,) = running.fuzz(20_000, 60, seed=1, only=["record-lead"])
    assert tally.crashes > 0


def test_an_event_that_is_read_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.targets._same", lambda ours, theirs: ours is theirs)
    target = targets()["record-lead"]
    with pytest.raises(Broken, match="pydantic reads"):
        target.run(target.seeds[0])


def test_figures_of_several_runs_add_up(tmp_path: Path) -> None:
    path = tmp_path / "fuzz.json"
    for _ in range(2):
        assert main(["--inputs", "10", "--only", "model-weights", "--record", str(path)]) == 0
    rows = {row["what"]: row for row in json.loads(path.read_text())}
    assert rows["fuzz: all: inputs"]["ours"] == rows["fuzz: model-weights: inputs"]["ours"] == 20
    assert rows["fuzz: all: crashes"] | {"command": ""} == {
        "what": "fuzz: all: crashes",
        "ours": 0,
        "against": None,
        "ratio": None,
        "goal": "0",
        "ok": True,
        "command": "",
        "runs": [],
    }
