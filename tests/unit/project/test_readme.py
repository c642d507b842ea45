"""What the README shows is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamer import discovery
from streamer.cli import app
from streamer.settings import Settings, leaves

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
WORKER, TEST = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[:2]


def test_a_worker_of_ones_own_takes_one_file_under_30_lines(tmp_path: Path) -> None:
    assert len(WORKER.splitlines()) < 30
    assert "kafka" not in WORKER.lower()
    (tmp_path / "upsell.py").write_text(WORKER)
    worker: Any = discovery.find(f"{tmp_path / 'upsell.py'}:Upsell")
    assert worker.name == "upsell"


def test_the_test_of_it_passes_as_shown(tmp_path: Path) -> None:
    (tmp_path / "upsell.py").write_text(WORKER)
    (tmp_path / "test_upsell.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_setting_is_in_the_table_with_its_default() -> None:
    said = dict(re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \|", README, re.MULTILINE))
    for key, value in leaves(Settings().model_dump()):
        if key in ("kafka.client", "models.dir"):
            assert key in said
            continue
        shown = (
            {None: "", True: "true", False: "false"}.get(value, value) if not isinstance(value, int | float) else value
        )
        assert said.get(key, "missing").removesuffix(".0") == str(shown).lower().removesuffix(".0"), key


PAGES = sorted(
    page
    for place in ("*", ".github/*", "deploy/*", "streamer/**/*", "workers/**/*")
    for page in ROOT.glob(f"{place}.md")
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_decision_stands_once_and_in_the_index() -> None:
    pages = {page: re.findall(r"^### (\d+)\. ", page.read_text(), re.MULTILINE) for page in PAGES}
    told = sorted(int(number) for numbers in pages.values() for number in numbers)
    assert told == list(range(1, len(told) + 1))
    index = re.findall(r"^\| (\d+) \| .* \| (.+) \|$", (ROOT / "streamer" / "README.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in index] == told
    for number, room in index:
        page = ROOT / "streamer" / (re.findall(r"\]\((.+)\)", room) or ["README.md"])[0]
        assert number in pages[page], f"decision {number} is not in {page.relative_to(ROOT)}"


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"^streamer ([a-z]+) |`streamer ([a-z]+) ", README, re.MULTILINE))
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert known >= {first or second for first, second in named}
