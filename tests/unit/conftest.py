"""What several unit tests begin with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from streamer.models import write
from streamer.telemetry import log
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


@pytest.fixture
def logs_put_back() -> Iterator[None]:
    """For tests that configure the logs of this process: afterwards they are as before."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logging.captureWarnings(False)  # whoever has turned it on before: turned on twice, it does nothing
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()
    log._kept_out.clear()
