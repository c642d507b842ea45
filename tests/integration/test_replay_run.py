"""The real run, on a part of the data: files in, predictions out, each row once, each answer with its label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import replay
from tests.services import Kafka, Redis

ROWS = 500


@pytest.mark.timeout(180)
def test_replay(
    kafka: Kafka,
    redis_server: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    words = ["--bootstrap", kafka.bootstrap, "--redis", redis_server.url, "--limit", str(ROWS)]
    monkeypatch.setattr("sys.argv", ["replay", *words, "--results", str(tmp_path)])
    replay.main()
    figures = {figure["what"]: figure for figure in json.loads((tmp_path / "replay.json").read_text())}
    for worker in ("lead-scoring", "ticket-routing"):
        assert figures[f"{worker}: events sent, of the rows of the file"]["ours"] == ROWS
        assert figures[f"{worker}: events predicted, of those sent"]["ours"] == ROWS
        assert [figures[f"{worker}: {what}"]["ours"] for what in ("duplicated", "lost", "dead letters")] == [0, 0, 0]
    assert all(figure["ok"] for figure in figures.values())
    assert figures["lead-scoring: ROC AUC, all rows"]["ours"] > 0.7
    assert figures["ticket-routing: accuracy"]["ours"] > 0.85
    assert "duplicated" in capsys.readouterr().out
