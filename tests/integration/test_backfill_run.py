"""`streamer backfill` on a real broker: each record of the range once, none beside it, whatever happens to it."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas import Prediction
from tests.commands import environment, start
from tests.echo import Pong, ping
from tests.services import Kafka, create_topic, read_topic, unique

WORKER = """
import time
from tests.commands import environment, start
from tests.echo import Echo


class Mine(Echo):
    name = "{name}"
    source = "{name}"
    target = "{name}.doubles"

    def predict(self, tensors):
        time.sleep({seconds})
        return super().predict(tensors)
"""
PARTITIONS = 3


class Range:
    """A topic with records before, in and after a range, and those who answer it."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.kafka = kafka
        self.folder = folder
        self.name = unique("range")
        create_topic(kafka.bootstrap, self.name, PARTITIONS)
        self._environment = environment(
            kafka__bootstrap_servers=kafka.bootstrap, allow_insecure="true", batch__items_max="50"
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def write(self, count: int, seconds: float = 0.0) -> None:
        """So many events in the range, as many before it and after it, in transactions: in each partition the last
        record of the range is followed by their mark, which nobody reads."""
        (self.folder / "mine.py").write_text(WORKER.format(name=self.name, seconds=seconds))
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "transactional.id": self.name})
        producer.init_transactions(30)
        times = []
        for part in range(3):
            producer.begin_transaction()
            for number in range(part * count, (part + 1) * count):
                producer.produce(
                    self.name, ping(number, f"name-{number % 50}").model_dump_json(), f"name-{number % 50}"
                )
            producer.commit_transaction(30)
            time.sleep(0.1)  # to the next millisecond, and the broker's last
            times.append(datetime.now(UTC).isoformat(timespec="milliseconds"))
            time.sleep(0.1)
        self.span = ("--from", times[0], "--to", times[1])
        self.wanted = [2.0 * number for number in range(count, 2 * count)]

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        words = ["backfill", "mine.py:Mine", *(more or self.span)]
        self.processes.append(start(words, self.folder, self._environment))
        return self.processes[-1]

    def answered(self) -> list[float]:
        """In order, so that what is there twice is seen."""
        found = read_topic(self.kafka.bootstrap, f"{self.name}.doubles.backfill")
        return sorted(Prediction[Pong].model_validate_json(message.value()).answer.double for message in found)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def span(kafka: Kafka, tmp_path: Path) -> Iterator[Range]:
    one = Range(kafka, tmp_path)
    yield one
    for process in one.processes:
        process.kill()
        process.wait()


def test_a_range_is_answered_once_and_the_same_command_finds_nothing_left(span: Range) -> None:
    span.write(1_000)
    assert span.start().wait(90) == 0, span.log()
    assert span.answered() == span.wanted
    assert re.search(r"done: ([\d,]+) of \1 offsets of range", span.log()), span.log()
    assert span.start().wait(60) == 0, span.log()
    assert span.answered() == span.wanted, "it was done"


def test_replicas_that_are_killed_and_come_again_answer_each_record_once(span: Range) -> None:
    span.write(1_500, seconds=0.25)
    chance, ends = random.Random(3), time.monotonic() + 14
    running = [span.start(), span.start()]
    while time.monotonic() < ends:
        time.sleep(chance.uniform(3, 6))
        victim = chance.randrange(2)
        assert running[victim].poll() in (None, 0), span.log()
        running[victim].kill()
        running[victim] = span.start()
    for process in running:
        assert process.wait(180) == 0, span.log()
    assert span.answered() == span.wanted


@pytest.mark.slow
def test_one_that_is_stopped_says_how_far_it_is_and_goes_on(span: Range) -> None:
    span.write(1_200, seconds=0.3)
    process = span.start()
    deadline = time.monotonic() + 60
    while "partitions assigned" not in span.log():
        assert time.monotonic() < deadline, span.log()
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, span.log()
    assert "it goes on where it was" in span.log()
    assert span.start().wait(120) == 0, span.log()
    assert span.answered() == span.wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "start", "--to", "2100-01-01"), "name a time in the past"),
        (("--from", "start", "--to", "start"), "name a time in the past"),
        (("--from", "yesterday", "--to", "2026-01-01"), "write a time such as"),
        (("--from", "2026-01-02", "--to", "2026-01-01"), "is not before"),
        (("--from", "start", "--to", "2026-01-01", "--target", "{name}.doubles"), "find answers twice"),
    ],
)
def test_a_range_that_is_none_is_refused(span: Range, words: tuple[str, ...], said: str) -> None:
    span.write(10)
    assert span.start(*(word.format(name=span.name) for word in words)).wait(60) == 2
    assert said in span.log()


def test_a_range_without_records_is_said_to_be_empty(span: Range) -> None:
    span.write(10)
    assert span.start("--from", "2020-01-01", "--to", "2020-02-01").wait(60) == 0, span.log()
    assert "no record of" in span.log()
