"""What several unit tests begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.models import write
from tests.model_folders import FILES, WEIGHTS, description


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models, in which there is one version of one."""
    write(tmp_path, description(), WEIGHTS, FILES)
    return tmp_path


@pytest.fixture
def folder(models: Path) -> Path:
    """The folder of that version."""
    return models / "demo" / "v1"
