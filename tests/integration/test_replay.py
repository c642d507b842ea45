"""Replay on a real broker: every dead letter goes back once, whatever the filter and whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer

from streamer.cli import replay as replaying
from streamer.wire import headers
from tests.services import Kafka, create_topic, end_offsets, read_topic, unique

Run = Callable[..., tuple[int, str, str]]


def bury(kafka: Kafka, source: str, letters: Sequence[tuple[str, str, int]]) -> None:
    """Write dead letters (value, reason, attempts) as the engine does: in transactions, some of them aborted."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique("engine")})
    producer.init_transactions(15)
    for number, (value, reason, attempts) in enumerate(letters):
        said = {
            headers.DLQ_TOPIC: source,
            headers.DLQ_PARTITION: str(number % 2),
            headers.DLQ_OFFSET: str(number),
            headers.DLQ_GROUP: "g",
            headers.DLQ_MESSAGE: "m",
            headers.DLQ_ERROR: "E",
            headers.REASON: reason,
            headers.WORKER: "scorer",
            headers.ATTEMPTS: str(attempts),
        }
        carried: list[Any] = [("mine", b"\xff\x00"), *((name, text.encode()) for name, text in said.items())]
        for finish in (producer.abort_transaction, producer.commit_transaction):
            producer.begin_transaction()
            producer.produce(f"dlq.{source}", value.encode(), f"key-{number}".encode(), number % 2, headers=carried)
            producer.flush(15)
            finish(15)


@pytest.fixture
def graveyard(kafka: Kafka, source: str) -> str:
    """Ten dead letters: invalid and model-error in turn, the last of them too often dead."""
    create_topic(kafka.bootstrap, source, partitions=2)
    create_topic(kafka.bootstrap, f"dlq.{source}", partitions=2)
    reasons = ["invalid", "invalid", "model-error", "model-error"]
    bury(kafka, source, [(f"v{n}", reasons[n % 4], 1 if n < 9 else 4) for n in range(10)])
    return f"dlq.{source}"


def values(kafka: Kafka, topic: str) -> list[str]:
    return sorted((message.value() or b"").decode() for message in read_topic(kafka.bootstrap, topic))


def test_a_dry_run_sends_and_remembers_nothing(run: Run, kafka: Kafka, source: str, graveyard: str) -> None:
    for _ in range(2):
        code, out, err = run("replay", "--dlq", graveyard, "--dry-run")
        assert code == 0, err
        assert out.splitlines()[-1] == "would send 9 of 10 dead letters"
        assert "parked: more than 3 attempts\tinvalid\t1" in out
    assert sum(end_offsets(kafka.bootstrap, source).values()) == 0


def test_filters_in_any_order_send_every_letter_once(run: Run, kafka: Kafka, source: str, graveyard: str) -> None:
    _, out, _ = run("replay", "--dlq", graveyard, "--where", "reason=model-error")
    assert out.splitlines()[-1] == "sent 4 of 10 dead letters"
    assert values(kafka, source) == ["v2", "v3", "v6", "v7"]
    _, out, _ = run("replay", "--dlq", graveyard, "--where", "reason=model-error")
    assert out.splitlines()[-1] == "sent 0 of 6 dead letters"
    _, out, _ = run("replay", "--dlq", graveyard, "--limit", "2")
    assert out.splitlines()[-1] == "sent 2 of 6 dead letters"
    _, out, _ = run("replay", "--dlq", graveyard, "--attempts-max", "9")
    assert out.splitlines()[-1] == "sent 4 of 4 dead letters"
    assert values(kafka, source) == sorted(f"v{n}" for n in range(10))
    _, out, _ = run("replay", "--dlq", graveyard, "--attempts-max", "9")
    assert out.splitlines()[-1] == "sent 0 of 0 dead letters"


def test_the_record_comes_back_as_it_was(run: Run, kafka: Kafka, source: str, graveyard: str) -> None:
    run("replay", "--dlq", graveyard, "--where", "offset=3")
    [message] = read_topic(kafka.bootstrap, source)
    assert (message.partition(), message.key(), message.value()) == (1, b"key-3", b"v3")
    assert message.headers() == [
        ("mine", b"\xff\x00"),
        (headers.ATTEMPTS, b"1"),
        (headers.SOURCE, f"{source}/1/3".encode()),
    ]


def test_an_interrupted_replay_goes_on_where_it_was(
    run: Run, kafka: Kafka, source: str, graveyard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "CHUNK", 2)
    commits = iter([True, True, False])
    make = replaying.clients.producer

    class Dying:
        """A producer whose process dies before its third commit."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            if name == "commit_transaction" and not next(commits):
                raise KeyboardInterrupt
            return getattr(self._real, name)

    with monkeypatch.context() as dying:
        dying.setattr(replaying.clients, "producer", lambda *args, **extra: Dying(make(*args, **extra)))
        code, _, _ = run("replay", "--dlq", graveyard)
        assert code == 130
    _, out, _ = run("replay", "--dlq", graveyard, "--attempts-max", "9")
    assert out.splitlines()[-1] == "sent 6 of 6 dead letters"
    assert values(kafka, source) == sorted(f"v{n}" for n in range(10))
