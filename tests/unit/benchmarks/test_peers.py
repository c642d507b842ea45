"""The environments of the benchmark's peers; nothing is installed here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import contestants
from benchmarks.peers import NAMES, environments, python_of
from benchmarks.peers.__main__ import main

MODULES = Path(contestants.__file__).parent


def installer(code: int) -> Any:
    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, code, "", "no such package")

    return run


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    with monkeypatch.context() as patched:
        patched.setattr(environments.subprocess, "run", installer(0))
        environments.install("bytewax", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_pins_all_that_is_asked_for_with_hashes_and_no_addresses(name: str) -> None:
    asked = (environments.LOCKS / f"{name}.in").read_text()
    lock = (environments.LOCKS / f"{name}.lock").read_text()
    pins = {re.sub(r"\[.*\]", "", line) for line in asked.split()}
    blocks = re.split(r"\n(?=\S)", lock.strip())
    assert pins <= {block.split()[0] for block in blocks}
    assert all("==" in block and "--hash=sha256:" in block for block in blocks)
    assert "://" not in lock


@pytest.mark.parametrize("name", NAMES)
def test_a_contestant_says_what_it_guarantees(name: str) -> None:
    said = ast.get_docstring(ast.parse((MODULES / f"{name}_peer.py").read_text()))
    assert said
    assert "At least once" in said


def test_every_peer_has_its_contestant() -> None:
    assert {f"{name}_peer.py" for name in NAMES} == {path.name for path in MODULES.glob("*_peer.py")}


def test_what_is_not_there_has_no_interpreter(tmp_path: Path) -> None:
    assert python_of("bytewax", tmp_path) is None


def test_an_environment_puts_its_own_packages_before_the_borrowed(installed: Path) -> None:
    python = python_of("bytewax", installed)
    assert python
    asked = [str(python), "-c", "import sys; print('\\n'.join(sys.path))"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")
    own = str(environments.packages(installed / "bytewax"))
    assert path.index(own) < path.index(str(environments.packages(Path(sys.prefix))))


def test_a_changed_lock_makes_an_environment_stale(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "digest", lambda _: "another")
    assert python_of("bytewax", installed) is None


def test_what_cannot_be_installed_is_told_and_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environments.subprocess, "run", installer(1))
    with pytest.raises(environments.InstallError, match=r"bytewax cannot be installed.*\n.*no such package"):
        environments.install("bytewax", tmp_path)
    assert python_of("bytewax", tmp_path) is None


def test_one_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def install(name: str) -> None:
        if name == "bytewax":
            raise environments.InstallError("bytewax cannot be installed")

    monkeypatch.setattr("benchmarks.peers.__main__.python_of", lambda name: name == "faust")
    monkeypatch.setattr("benchmarks.peers.__main__.install", install)
    with pytest.raises(SystemExit, match="bytewax cannot be installed"):
        main()
    told = capsys.readouterr().err
    assert "bytewax: failed" in told
    assert "faust: is there" in told
    assert "quix: installed" in told
