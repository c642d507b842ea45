"""A worker with keys on a real Kafka: encrypted events in, right predictions out, and no person anywhere else.

Every tagged field of every event is a canary; all that comes out is searched for them: both topics, the logs of the
worker at its finest level, `/metrics`, and what the commands print.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas import TicketEvent
from streamer.privacy import encryption
from streamer.privacy.encryption import Cipher
from streamer.wire import headers
from tests.integration.conftest import Run
from tests.people import CANARIES, CANARY, FAULTS, NUMBER, Indiscreet, Person, as_json, person
from tests.services import Kafka, create_topic, produce_many, read_topic, unique

ROOT = Path(__file__).parents[2]
WORKER = """
from tests import people


class Here(people.Indiscreet):
    source, target = "{source}", "{source}.seen"
"""


def searched(what: str, *texts: object) -> None:
    for text in texts:
        found = text if isinstance(text, bytes) else str(text).encode()
        assert not [canary for canary in CANARIES if canary in found], f"{what}: {found[:2000]!r}"


@contextmanager
def worker(kafka: Kafka, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "log.level": "debug",
        "log.format": "json",
        "http.port": "0",
        "encryption.keys_file": str(folder / "keys"),
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environment = {**os.environ, "STREAMER_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from streamer.cli import main; main()", "run", "here.py:Here", *words]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def metrics(log: Path) -> str:
    [warm] = [line for line in lines(log) if line["event"] == "model is warm"]
    with urllib.request.urlopen(f"http://127.0.0.1:{warm['http_port']}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def answered(kafka: Kafka, source: str, count: int, log: Path) -> tuple[list[Any], list[Any]]:
    """Predictions and dead letters, once there are so many."""
    deadline = time.monotonic() + 40
    while True:
        found = [read_topic(kafka.bootstrap, topic) for topic in (f"{source}.seen", f"dlq.{source}")]
        if sum(map(len, found)) >= count:
            return found[0], found[1]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.mark.timeout(120)
def test_no_person_is_anywhere_but_where_they_should_be(run: Run, kafka: Kafka, tmp_path: Path) -> None:
    source = unique("people")
    for topic in (source, f"{source}.seen", f"dlq.{source}"):
        create_topic(kafka.bootstrap, topic, partitions=1)
    (tmp_path / "here.py").write_text(WORKER.format(source=source))
    keys, log = tmp_path / "keys", tmp_path / "log"
    old, new = (f"{name} {base64.b64encode(os.urandom(32)).decode()}\n" for name in ("2026-05", "2026-11"))
    keys.write_text(old)
    keys.chmod(0o600)
    before = Cipher(encryption.load(keys), Indiscreet.event, source)
    keys.write_text(new + old)
    after = Cipher(encryption.load(keys), Indiscreet.event, source)

    good = [as_json(n).encode() for n in range(3)]
    values = [before.seal_fields(good[0]), after.seal_fields(good[1]), good[2]]
    values += [after.seal_fields(as_json(n, fault=fault).encode()) for n, fault in enumerate(FAULTS, start=10)]
    values += [as_json(20)[:-9].encode(), as_json(21, income=CANARY).encode(), CANARY.encode()]
    values += [json.dumps({"txet": CANARY, "income": NUMBER}).encode()]
    tampered = json.loads(after.seal_fields(as_json(30).encode()))
    tampered["name"], tampered["card"]["holder"] = tampered["card"]["holder"], tampered["name"]
    foreign = Cipher(encryption.load(keys), Person, source).seal_fields(as_json(31).encode())
    values += [json.dumps(tampered).encode(), foreign]
    produce_many(kafka.bootstrap, source, [(b"a0", value) for value in values])

    with worker(kafka, tmp_path, log) as process:
        predictions, dead = answered(kafka, source, len(values), log)
        said = [json.loads(message.value()) for message in predictions]
        assert [one["event_id"] for one in said] == ["e0", "e1", "e2"]
        assert [one["answer"] for one in said] == [{"length": len(person(n).name), "income": NUMBER} for n in range(3)]
        reasons = [headers.dead_letter(message.headers()).reason for message in dead]
        assert reasons.count("not-decrypted") == 2
        assert len(reasons) == len(values) - 3
        for message in dead:
            searched("dead letter", message.value(), message.headers(), message.key())
        for message in predictions:
            searched("prediction", message.headers(), message.key(), message.value().replace(str(NUMBER).encode(), b""))
        assert [after.seal(message.value()) for message in dead] == [message.value() for message in dead], "all open"
        scraped = metrics(log)
        assert 'reason="not-decrypted"' in scraped
        searched("metrics", scraped)

        code, out, err = run("replay", "--dlq", f"dlq.{source}", "--where", "reason=model-error")
        assert code == 0, err
        _, again = answered(kafka, source, len(values) + reasons.count("model-error"), log)
        assert {headers.dead_letter(m.headers()).attempts for m in again[len(dead) :]} == {2}
        for message in again:
            searched("dead letter again", message.value(), message.headers())
        searched("replay", out, err)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    searched("log", log.read_bytes())
    assert {line.get("reason") for line in lines(log)} >= {"model-error", "invalid", "not-json", "not-decrypted"}


def test_produce_encrypts_and_tail_hides(run: Run, kafka: Kafka, topic: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"one {base64.b64encode(os.urandom(32)).decode()}\n")
    (tmp_path / "keys").chmod(0o600)
    (tmp_path / "t.csv").write_text(f"text,customer_id\n{CANARY},c1\n{CANARY * 600},c1\n")
    words = ("--set", "encryption.keys_file=keys")
    code, out, err = run("produce", "t.csv", "--as", "ticket", "--topic", topic, *words)
    assert (code, out) == (65, f"sent 1 events to {topic}\n")
    searched("produce", out, err)
    [message] = read_topic(kafka.bootstrap, topic)
    searched("event", message.value(), message.headers())
    cipher = Cipher(encryption.load(tmp_path / "keys"), TicketEvent, topic)
    assert json.loads(cipher.open(message.value() or b""))["text"] == CANARY

    assert run("produce", "t.csv", "--as", "ticket", "--topic", topic)[0] == 65
    assert CANARY.encode() in (read_topic(kafka.bootstrap, topic)[-1].value() or b""), "without keys it is plain"

    code, _, err = run("produce", "t.csv", "--as", "ticket", "--topic", topic, "--set", "encryption.keys_file=no")
    assert code == 78
    assert "encryption.keys_file no: No such file" in err
