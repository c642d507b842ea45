"""`streamer days` on a real broker: every day is told once, and rightly, whatever happens to the process."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas import ArticleDayEvent, InvoiceEvent, InvoiceLine
from streamer.cli.days import IDLE_S
from streamer.clock import SystemClock
from streamer.days import Calendar
from streamer.panes import time_of
from streamer.records import Record
from tests.commands import STREAMER, environment, start
from tests.services import Kafka, create_topic, produce_many, read_topic, unique
from workers.sales_forecast.days import DAYS

WORKER = """
from schemas import InvoiceEvent
from streamer.days import Days
from workers.sales_forecast.days import DAYS
from workers.sales_forecast.worker import SalesForecast


class Bought(InvoiceEvent):
    topic = "{name}.invoices"


class Mine(SalesForecast):
    name = "{name}"
    source = "{name}.days"
    target = "{name}.forecasts"
    days = Days(Bought, DAYS.amounts, DAYS.told, DAYS.history_of, DAYS.history)
"""
PARTITIONS = 3
START = datetime(2026, 3, 1, tzinfo=UTC)
COUNT, ARTICLES, DAY_COUNT = 1_500, 40, 15


class Telling:
    """A worker of days, its topics, and the process that tells it of them."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.kafka = kafka
        self.name = unique("shop")
        self.folder = folder
        self._environment = environment(kafka__bootstrap_servers=kafka.bootstrap, allow_insecure="true")
        (folder / "mine.py").write_text(WORKER.format(name=self.name))
        create_topic(kafka.bootstrap, f"{self.name}.invoices", PARTITIONS)
        subprocess.run(
            [STREAMER, "topics", "apply", "mine.py:Mine", "--partitions", "2"],
            cwd=folder,
            env=self._environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        self.processes.append(start(["days", "mine.py:Mine", *more], self.folder, self._environment))
        return self.processes[-1]

    def write(self, invoices: list[InvoiceEvent]) -> None:
        rows = [(invoice.key.encode(), invoice.model_dump_json().encode()) for invoice in invoices]
        produce_many(self.kafka.bootstrap, f"{self.name}.invoices", rows)

    def told(self) -> list[ArticleDayEvent]:
        """What readers of committed records see."""
        found = read_topic(self.kafka.bootstrap, f"{self.name}.days")
        return [ArticleDayEvent.model_validate_json(message.value()) for message in found]

    def wait(self, until: date, timeout_s: float = 60) -> list[ArticleDayEvent]:
        """Until this day has been told."""
        deadline = time.monotonic() + timeout_s
        while not any(event.day >= until for event in self.told()):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)
        return self.told()  # again, as partitions are read one after the other

    def wait_until_it_serves(self) -> None:
        """Until the process that was started last has said so."""
        deadline, begun = time.monotonic() + 60, self.log().count("days begin")
        while self.log().count("days begin") == begun:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def telling(kafka: Kafka, tmp_path: Path) -> Iterator[Telling]:
    one = Telling(kafka, tmp_path)
    yield one
    for process in one.processes:
        process.kill()
        process.wait()


def invoices(days: range, seed: int = 3) -> list[InvoiceEvent]:
    """Some a day, in order of time; one in twenty is sent twice."""
    chance, found = random.Random(seed), []
    for number in range(COUNT * len(days) // DAY_COUNT):
        at = START + timedelta(days=days.start + number * len(days) / (COUNT * len(days) // DAY_COUNT))
        lines = [
            InvoiceLine(article=f"{10_000 + chance.randrange(ARTICLES)}", pieces=chance.randint(-2, 9), price=1.0)
            for _ in range(chance.randint(1, 5))
        ]
        name = f"{days.start}-{number}"
        invoice = InvoiceEvent(event_id=name, occurred_at=at, invoice_id=name, lines=tuple(lines))
        found += [invoice] * (1 + (chance.random() < 0.05))
    return found


def expected(sent: list[InvoiceEvent]) -> dict[str, tuple[int, ...]]:
    """What one process tells that has one partition and no fault."""
    calendar, found = Calendar(DAYS, [0], SystemClock()), {}
    for offset, invoice in enumerate(sent):
        calendar.take(Record("", 0, offset, None, None, None, time_of(invoice)), invoice)
    for day in calendar.over(frozenset()):
        for event in calendar.tell(day):
            assert isinstance(event, ArticleDayEvent)
            found[event.event_id] = event.pieces
        calendar.close(day)
    return found


def as_pieces(told: list[ArticleDayEvent]) -> dict[str, tuple[int, ...]]:
    found = {event.event_id: event.pieces for event in told}
    assert len(found) == len(told), "a day was told twice"
    return found


def test_days_are_told_once_though_the_process_dies_again_and_again(telling: Telling) -> None:
    chance, sent = random.Random(5), []
    for first in range(0, DAY_COUNT, 3):
        batch = invoices(range(first, first + 3))
        sent += batch
        process = telling.start()
        telling.write(batch)
        if first:
            telling.wait(START.date() + timedelta(days=first - 2))
        time.sleep(chance.uniform(0, 0.5))  # at any step
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = telling.start()
    telling.wait_until_it_serves()
    found = telling.wait(START.date() + timedelta(days=DAY_COUNT - 2))
    assert as_pieces(found) == expected(sent)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, telling.log()


def test_a_second_process_takes_over_and_the_first_says_so(telling: Telling) -> None:
    sent = invoices(range(5))
    telling.write(sent)
    first = telling.start()
    telling.wait(START.date() + timedelta(days=3))
    telling.start()
    telling.wait_until_it_serves()
    more = invoices(range(5, 9))
    telling.write(more)
    assert first.wait(60) == 75, telling.log()
    assert "another process emits these days now" in telling.log()
    assert as_pieces(telling.wait(START.date() + timedelta(days=7))) == expected(sent + more)


def test_days_before_a_date_are_counted_and_not_sent(telling: Telling) -> None:
    sent = invoices(range(6))
    telling.write(sent)
    process = telling.start("--since", "2026-03-05")
    found = as_pieces(telling.wait(date(2026, 3, 5)))
    wanted = expected(sent)
    assert found == {name: pieces for name, pieces in wanted.items() if name.endswith("2026-03-05")}
    assert sum(pieces[-2] for pieces in found.values()), "and the days before are in them"
    process.kill()
    telling.start("--since", "2026-03-05")
    more = invoices(range(6, 8))
    telling.write(more)
    wanted = expected(sent + more)
    later = ("2026-03-05", "2026-03-06", "2026-03-07")
    found = as_pieces(telling.wait(date(2026, 3, 7)))
    assert found == {name: pieces for name, pieces in wanted.items() if name.endswith(later)}


def test_a_day_that_is_gone_from_the_topic_is_no_day_without_sales(telling: Telling) -> None:
    telling.write(invoices(range(4)))
    process = telling.start()
    telling.wait(START.date() + timedelta(days=2))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    client = AdminClient({"bootstrap.servers": telling.kafka.bootstrap})
    for done in client.delete_records([TopicPartition(f"{telling.name}.days", p, -1) for p in (0, 1)]).values():
        done.result(20)
    assert telling.start().wait(60) == 69
    assert "has lost the last day" in telling.log()


def test_a_worker_without_days_is_told_so(telling: Telling) -> None:
    done = subprocess.run(
        [STREAMER, "days", "lead-scoring", "--set", "allow_insecure=true"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 78
    assert b"declares no days" in done.stderr


@pytest.mark.slow
def test_a_partition_with_an_open_transaction_is_not_idle(telling: Telling) -> None:
    topic, late = f"{telling.name}.invoices", invoices(range(2, 3))[-1]
    other, early = invoices(range(1))[:2]
    client = {"bootstrap.servers": telling.kafka.bootstrap, "transactional.id": telling.name}
    producer = Producer({**client, "transaction.timeout.ms": "120000"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, early.model_dump_json(), "a", partition=1)
    producer.flush(30)
    telling.start()
    telling.wait_until_it_serves()
    plain = Producer({"bootstrap.servers": telling.kafka.bootstrap})
    for partition, event in ((0, other), (0, late), (2, late)):
        plain.produce(topic, event.model_dump_json(), "b", partition=partition)
    plain.flush(30)
    time.sleep(IDLE_S + 5)
    assert telling.told() == [], "what is open may yet count"
    producer.commit_transaction(30)
    told = as_pieces(telling.wait(START.date(), timeout_s=90))
    assert told == expected([other, early, late])


def test_positions_without_a_note_and_days_without_positions_are_no_first_start(telling: Telling) -> None:
    telling.write(invoices(range(2)))
    produce_many(telling.kafka.bootstrap, f"{telling.name}.days", [(b"a", b"{}")])
    assert telling.start().wait(60) == 78, telling.log()
    assert "--since" in telling.log()
    client = {"bootstrap.servers": telling.kafka.bootstrap, "group.id": f"streamer-{telling.name}.days"}
    consumer = Consumer(client)
    consumer.commit(offsets=[TopicPartition(f"{telling.name}.invoices", 0, 1)], asynchronous=False)
    consumer.close()
    assert telling.start("--since", "2026-03-01").wait(60) == 78, telling.log()
    assert "has positions that streamer days has not written" in telling.log()
