"""Virtual environments of the peers: whether one is there, and how it is made."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

NAMES = ("arroyo", "bytewax", "faststream", "faust", "quix")
LOCKS = Path(__file__).parent
ROOT = Path(__file__).parents[2] / ".cache" / "peers"
STAMP = ".ready"


class InstallError(Exception):
    """A peer could not be installed; the message says why and what to do."""


def python_of(name: str, root: Path = ROOT) -> Path | None:
    """The interpreter that runs `benchmarks.contestants.<name>_peer`; None where it is not installed, or not as the
    lock now says."""
    stamp, python = root / name / STAMP, interpreter(root / name)
    ready = stamp.is_file() and stamp.read_text() == digest(name) and python.exists()
    return python if ready else None


def interpreter(folder: Path) -> Path:
    """Where a virtual environment has its interpreter."""
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}), "python")


def packages(folder: Path) -> Path:
    """Where a virtual environment has its packages."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))


def digest(name: str) -> str:
    """What an environment is made from: its lock, this Python, and the environment that it borrows from."""
    parts = [(LOCKS / f"{name}.lock").read_bytes(), sys.version.encode(), _ours().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def install(name: str, root: Path = ROOT) -> None:
    """Make the environment of a peer anew, with exactly what its lock names.

    Raises:
        InstallError: something cannot be installed; the installer's own words are in the message.
    """
    folder = root / name
    venv.create(folder, clear=True, symlinks=True)
    locked = ["--quiet", "--require-hashes", "-r", str(LOCKS / f"{name}.lock")]
    done = subprocess.run([*_installer(interpreter(folder)), *locked], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(
            f"{name} cannot be installed, and the benchmark leaves it out:\n{done.stderr.strip()}\n"
            "If the package registry did not answer, try again; "
            f"if it has nothing for Python {sys.version_info.major}.{sys.version_info.minor}, make .venv with 3.11"
        )
    # Python appends what a .pth file names to its path: the peer's own packages come first.
    (packages(folder) / "borrowed.pth").write_text(f"{_ours()}\n")
    (folder / STAMP).write_text(digest(name))  # last: half an environment must not count


def _ours() -> str:
    return sysconfig.get_path("purelib")


def _installer(python: Path) -> list[str]:
    """uv where there is one, beside this interpreter or on the path, since it is many times faster; else pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", str(python)]
    return [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check"]
