"""Fixtures of the command line against the real broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer import cli
from tests.services import Kafka, unique
from tests.services.secure_kafka import SecureKafka, start_secure_kafka

Run = Callable[..., tuple[int, str, str]]

WORKER = """
from datetime import UTC, datetime

import torch

from schemas import LeadEvent, LeadScore, TicketEvent
from streamer.worker import Worker
from workers.lead_scoring.worker import LeadScoring


class Scorer(Worker[LeadEvent, LeadScore]):
    name = "scorer"
    source = "{source}"
    target = "{target}"
    event = LeadEvent
    answer = LeadScore
    example = LeadScoring.example

    def encode(self, events, features):
        return {{"age": torch.tensor([[event.age / 100] for event in events])}}

    def predict(self, tensors):
        return {{"score": tensors["age"]}}

    def decode(self, events, outputs):
        scores = outputs["score"].flatten().tolist()
        return [LeadScore(lead_id=e.lead_id, probability=s, band="warm") for e, s in zip(events, scores)]


class Broken(Scorer):
    def predict(self, tensors):
        raise RuntimeError("no such layer")


class Misfit(Scorer):
    event = TicketEvent
    model = "lead-scoring"
    example = TicketEvent(event_id="e", occurred_at=datetime.now(UTC), ticket_id="t", customer_id="c", text="x")
"""


@pytest.fixture(scope="session")
def secure_kafka() -> Iterator[SecureKafka]:
    """A real broker with TLS and rights, of which nobody has any at first."""
    with start_secure_kafka() as broker:
        yield broker


@pytest.fixture
def run(kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line against the broker: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STREAMER_TEST_")]:
        monkeypatch.delenv(name)  # where the tests' own servers are: no setting of streamer's
    monkeypatch.setenv("STREAMER_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv("STREAMER_ALLOW_INSECURE", "true")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["streamer", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The source topic of a worker in ./mine.py that has topics of its own; the topic is not made yet."""
    name = unique("events")
    (tmp_path / "mine.py").write_text(WORKER.format(source=name, target=f"{name}.scores"))
    return name
