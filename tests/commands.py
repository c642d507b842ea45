"""`streamer` as a user starts it: its path, an environment without the settings of whoever runs it, a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
STREAMER = str(Path(sys.executable).with_name("streamer"))


def environment(**settings: str) -> dict[str, str]:
    """That of this process, with these settings alone (`kafka__bootstrap_servers`), any free port for probes, and this
    repository to import from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    said = {"http__port": "0", **settings}
    return {**kept, "PYTHONPATH": str(ROOT), **{f"STREAMER_{name.upper()}": value for name, value in said.items()}}


def start(words: Sequence[str], folder: Path, environ: Mapping[str, str], log: str = "log") -> subprocess.Popen[bytes]:
    """Start `streamer` in a folder; what it says goes to the end of a file there."""
    with (folder / log).open("ab") as file:
        return subprocess.Popen([STREAMER, *words], cwd=folder, env=environ, stdout=file, stderr=file)
