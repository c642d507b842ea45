"""Finds the public data that tests and benchmarks read; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from workers.datasets import PUBLISHERS

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Beside the repository, as the data are not ours to publish."""


def shared(name: str) -> Path:
    """The folder of a data set: `bank_marketing`, `banking77`, `online_retail`.

    Raises:
        FileNotFoundError: it is not there; the message says where its publisher keeps it.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        source = PUBLISHERS.get(name, f"the data sets are {', '.join(PUBLISHERS)}")
        raise FileNotFoundError(f"{folder} is not there. Get it from its publisher ({source}).")
    return folder
