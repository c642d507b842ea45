"""`streamer check` shows a worker's own mistake whole: the example is no personal data."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.cli.check import _dry_run
from streamer.discovery import find
from streamer.errors import BadConfig
from streamer.settings import Settings

WORKER = """
from datetime import UTC, datetime

import torch
from pydantic import BaseModel

from streamer import Event, Worker


class Answer(BaseModel):
    total: float


class Broken(Worker[Event, Answer]):
    name, source, target, event, answer = "broken", "a.v1", "b.v1", Event, Answer
    example = Event(event_id="1", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))

    def encode(self, events, features):
        return {"total": torch.ones(len(events), 2)}

    def predict(self, tensors):
        return {"total": tensors["total"] @ torch.ones(3, 3)}
"""


def test_an_exception_of_the_worker_is_shown_with_its_text_and_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(WORKER)
    worker = find(f"{tmp_path / 'broken.py'}:Broken")()
    with pytest.raises(BadConfig, match="the example becomes a dead letter"):
        _dry_run(Settings(), worker)
    shown = capsys.readouterr().err
    assert "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x3)" in shown
    assert 'tensors["total"] @ torch.ones(3, 3)' in shown
