"""Workers are found by name, module or file, and what is wrong is named."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from streamer import discovery
from streamer.errors import BadConfig, Usage

WORKER = """
from schemas import EVENTS, LeadEvent, LeadScore
from streamer.worker import Worker

class Mine(Worker[LeadEvent, LeadScore]):
    name = "mine"
    source = "a"
    target = "b"
    event = LeadEvent
    answer = LeadScore
    example = None

class Half(Worker[LeadEvent, LeadScore]):
    name = "half"
    source = "a"

class Loop(Mine):
    target = "a"

class Dead(Mine):
    target = "dlq.a"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    (tmp_path / "mine.py").write_text(WORKER)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "loud.py").write_text("raise RuntimeError('at import')\n")
    return tmp_path


def test_an_installed_worker_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("mine", "mine:Mine", discovery.GROUP), EntryPoint("other", "mine:Half", discovery.GROUP)]
    monkeypatch.setattr(discovery, "entry_points", lambda group: entries)
    assert discovery.names() == ["mine", "other"]
    assert discovery.find("mine").name == "mine"
    with pytest.raises(Usage, match=r"no worker 'mien'; did you mean mine\? \(installed: mine, other\)"):
        discovery.find("mien")


def test_a_worker_of_a_module_here(folder: Path) -> None:
    assert discovery.find("mine:Mine").name == "mine"


def test_a_worker_of_a_file(folder: Path) -> None:
    assert discovery.find("mine.py:Mine").name == "mine"
    assert discovery.find(f"{folder}/mine.py:Mine").name == "mine"


def test_a_file_does_not_replace_the_module_of_its_name(folder: Path) -> None:
    (folder / "json.py").write_text(WORKER)
    import json

    discovery.find("json.py:Mine")
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("wanted", "error", "told"),
    [
        ("nowhere.py:Mine", Usage, "there is no file nowhere.py"),
        ("nowhere:Mine", Usage, "there is no module 'nowhere'"),
        ("mine:Nobody", Usage, "no worker class 'Nobody'; there is Mine, Half, Loop, Dead"),
        ("mine:EVENTS", Usage, "no worker class 'EVENTS'"),
        ("mine:Half", BadConfig, "class Half does not define target, event, answer, example"),
        ("mine:Loop", BadConfig, "target a is the topic it reads"),
        ("mine:Dead", BadConfig, "target dlq.a is the topic of its dead letters"),
        ("broken:Mine", BadConfig, "needs no_such_library, which is not installed"),
        ("broken.py:Mine", BadConfig, "cannot be imported: ModuleNotFoundError"),
        ("loud.py:Mine", BadConfig, "cannot be imported: RuntimeError: at import"),
        ("nonsense", Usage, "a file of your own is path/to/file.py:Class"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, wanted: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as caught:
        discovery.find(wanted)
    assert told in str(caught.value)
