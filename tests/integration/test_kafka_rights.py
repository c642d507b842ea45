"""Least rights, on a real Kafka with ACLs: `deploy/acls.sh` is enough, and each of its lines is needed.

A right that is missing ends what needs it, with an error that names the right; nothing is lost meanwhile, and when
the right is back every record is answered once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import KafkaException

from streamer.wire import headers
from tests.faults.checker import Report
from tests.faults.process import WorkerProcess
from tests.faults.stream import Stream
from tests.integration.conftest import WORKER, Run
from tests.services import create_topic, produce_many, unique
from tests.services.secure_kafka import Right, SecureKafka, rights
from workers.lead_scoring.worker import LeadScoring

pytestmark = pytest.mark.slow

WORKER_RIGHTS = ("READ topic", "READ group", "WRITE topic", "WRITE topic dlq", "WRITE transactional-id")
ENDS_S = 25
"""Ten refusals take six seconds, a group that is forbidden is noticed when its session ends."""


class Story(NamedTuple):
    """What became of a worker whose right was taken away while it ran."""

    right: Right
    running: tuple[int, str]
    moved: dict[int, tuple[int, int]]
    starting: tuple[int, str]
    report: Report


@pytest.fixture(scope="module")
def stories(secure_kafka: SecureKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Story]]:
    """One worker a right, side by side, as each takes seconds to give up: all rights, one less, a start without it,
    and all again."""
    client = secure_kafka.by_scram()
    with ExitStack() as stack:
        streams = [
            stack.enter_context(
                Stream(
                    secure_kafka,
                    tmp_path_factory.mktemp("rights"),
                    partitions=2,
                    rate=60,
                    broken_every=4,
                    via=secure_kafka.sasl,
                )
            )
            for _ in WORKER_RIGHTS
        ]
        lists = [rights("worker", SOURCE=s.source, TARGET=s.target, GROUP=s.group) for s in streams]
        assert {len(given) for given in lists} == {len(WORKER_RIGHTS)}, "the list in deploy/ and this one differ"
        for given in lists:
            secure_kafka.grant(given)
        first = [stream.start(client=client) for stream in streams]
        for stream in streams:
            stream.answer(60)
        taken = [given[at] for at, given in enumerate(lists)]
        secure_kafka.revoke(taken)
        time.sleep(0.5)  # what was being committed is
        before = [stream.committed() for stream in streams]
        running = [_end(worker) for worker in first]
        after = [stream.committed() for stream in streams]
        starting = [_end(worker) for worker in [stream.start(client=client) for stream in streams]]
        secure_kafka.grant(taken)
        for stream in streams:
            stream.start(client=client)
        reports = [stream.finish() for stream in streams]
        moved = [
            {p: (one[p], other[p]) for p in one if one[p] != other[p]} for one, other in zip(before, after, strict=True)
        ]
        rows = zip(taken, running, moved, starting, reports, strict=True)
        yield {name: Story(*row) for name, row in zip(WORKER_RIGHTS, rows, strict=True)}


def _end(worker: WorkerProcess) -> tuple[int, str]:
    code = worker.wait(ENDS_S)
    return code, worker.log().splitlines()[-1]


def _named(right: Right) -> str:
    resource = right.resource.replace("-", " ")
    return f"needs {right.operation.upper()} on {resource} {right.name}"


@pytest.mark.parametrize("name", WORKER_RIGHTS)
def test_a_right_that_is_taken_away_ends_the_worker_and_is_named(stories: dict[str, Story], name: str) -> None:
    story = stories[name]
    code, said = story.running
    assert code == 69, said
    assert said.startswith("streamer: ")
    assert _named(story.right) in said
    assert "deploy/acls.sh" in said


@pytest.mark.parametrize("name", WORKER_RIGHTS)
def test_no_position_moves_without_the_right(stories: dict[str, Story], name: str) -> None:
    assert stories[name].moved == {}


@pytest.mark.parametrize("name", WORKER_RIGHTS)
def test_a_worker_that_starts_without_a_right_says_which(stories: dict[str, Story], name: str) -> None:
    story = stories[name]
    code, said = story.starting
    assert code == 69, said
    assert _named(story.right) in said


@pytest.mark.parametrize("name", WORKER_RIGHTS)
def test_with_the_right_back_every_record_is_answered_once(stories: dict[str, Story], name: str) -> None:
    report = stories[name].report
    assert report.inputs > 300
    assert report.complaints == {}, report


@pytest.mark.parametrize("missing", ["Write topic dlq", "Read group"])
def test_at_least_once_needs_the_same_but_no_transactional_id(
    secure_kafka: SecureKafka, tmp_path: Path, missing: str
) -> None:
    with Stream(secure_kafka, tmp_path, partitions=2, rate=100, broken_every=4, via=secure_kafka.sasl) as stream:
        given = rights("worker", SOURCE=stream.source, TARGET=stream.target, GROUP=stream.group)[:4]
        operation, resource, *which = missing.split()
        right = next(
            one
            for one in given
            if (one.operation, one.resource) == (operation, resource) and one.name.startswith("".join(which))
        )
        secure_kafka.grant(one for one in given if one != right)
        code, said = _end(stream.start(client=secure_kafka.by_scram(), delivery="at_least_once"))
        assert code == 69, said
        assert _named(right) in said
        secure_kafka.grant([right])
        stream.start(client=secure_kafka.by_scram(), delivery="at_least_once")
        report = stream.finish()
        assert {name for name in report.complaints if name != "duplicated"} == set(), report


# -- the other commands


@pytest.fixture
def secured(run: Run, secure_kafka: SecureKafka, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line as the user who has only what it was given."""
    monkeypatch.setenv("STREAMER_KAFKA__BOOTSTRAP_SERVERS", secure_kafka.sasl)
    monkeypatch.delenv("STREAMER_ALLOW_INSECURE")
    for name, value in secure_kafka.by_scram().items():
        monkeypatch.setenv(f"STREAMER_KAFKA__CLIENT__{name.replace('.', '_').upper()}", value)
    return run


class Place(NamedTuple):
    """Topics of a worker in ./mine.py, with three records and one dead letter."""

    source: str
    target: str


@pytest.fixture
def place(secure_kafka: SecureKafka, tmp_path: Path) -> Place:
    source = create_topic(secure_kafka.bootstrap, unique("events"), partitions=1)
    target = create_topic(secure_kafka.bootstrap, f"{source}.scores", partitions=1)
    dlq = create_topic(secure_kafka.bootstrap, f"dlq.{source}", partitions=1)
    produce_many(secure_kafka.bootstrap, source, [(b"k", b"{")] * 3)
    produce_many(secure_kafka.bootstrap, dlq, [(b"k", b"{")], headers=_dead(source))
    (tmp_path / "mine.py").write_text(WORKER.format(source=source, target=target))
    return Place(source, target)


def _dead(source: str) -> list[tuple[str, str | bytes | None]]:
    said = {headers.DLQ_TOPIC: source, headers.DLQ_PARTITION: "0", headers.DLQ_OFFSET: "0", headers.DLQ_GROUP: "g"}
    said |= {headers.DLQ_MESSAGE: "x", headers.DLQ_ERROR: "X", headers.REASON: "not-json"}
    return [*said.items(), (headers.WORKER, "scorer"), (headers.ATTEMPTS, "1")]


def _delete(kafka: SecureKafka, topics: list[str]) -> None:
    for gone in kafka.admin.delete_topics(topics).values():
        with suppress(KafkaException):
            gone.result(10)
    while set(topics) & kafka.admin.list_topics(timeout=10).topics.keys():
        time.sleep(0.05)


COMMANDS = {
    "lag": ["lag", "mine.py:Scorer"],
    "tail": ["tail", "{source}", "--from", "start", "--limit", "1"],
    "produce": ["produce", "lead.jsonl", "--as", "lead", "--topic", "{source}"],
    "replay": ["replay", "--dlq", "dlq.{source}"],
    "topics": ["topics", "apply", "mine.py:Scorer"],
}
LINES = {"lag": 2, "tail": 2, "produce": 1, "replay": 4, "topics": 6}
"""How many rights each needs."""


@pytest.mark.parametrize("role", COMMANDS)
def test_a_command_needs_each_of_its_rights_and_no_more(
    secured: Run, secure_kafka: SecureKafka, place: Place, tmp_path: Path, role: str
) -> None:
    (tmp_path / "lead.jsonl").write_text(LeadScoring.example.model_dump_json())
    words = [word.format(source=place.source) for word in COMMANDS[role]]
    given = rights(role, SOURCE=place.source, TARGET=place.target, TOPIC=place.source, GROUP="streamer-scorer")
    secure_kafka.grant(given)
    for right in given:
        if role == "topics":  # what is there already needs no right to make it
            _delete(secure_kafka, [place.source, place.target, f"dlq.{place.source}"])
        secure_kafka.revoke([right])
        code, _, err = secured(*words)
        assert code == 69, err
        assert _named(right) in err
        secure_kafka.grant([right])
    code, out, err = secured(*words)
    assert (code, err) == (0, ""), out
    assert len(given) == LINES[role]


def test_check_passes_with_the_rights_of_a_worker_and_names_what_is_hidden(
    secured: Run, secure_kafka: SecureKafka, place: Place
) -> None:
    given = rights("worker", SOURCE=place.source, TARGET=place.target, GROUP="streamer-scorer")
    secure_kafka.grant(given)
    code, out, _ = secured("check", "mine.py:Scorer")
    assert code == 0, out
    secure_kafka.revoke([given[0]])
    code, out, _ = secured("check", "mine.py:Scorer")
    assert code == 69
    assert f"needs DESCRIBE on topic {place.source}" in out
