"""Least rights of the processes beside a worker, as `test_kafka_rights` has them: windows, days, backfill."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas import InvoiceEvent, InvoiceLine
from streamer.features.entities import Entities, changelog
from tests.commands import environment, start
from tests.services import Redis, count_topic, create_topic, produce_many, unique
from tests.services.secure_kafka import Right, SecureKafka, rights
from workers.purchase_propensity.windows import WINDOWS

WORKERS = """
from schemas import InvoiceEvent
from streamer.days import Days
from workers.purchase_propensity.worker import PurchasePropensityWorker
from workers.sales_forecast.days import DAYS
from workers.sales_forecast.worker import SalesForecast


class Bought(InvoiceEvent):
    topic = "{name}"


class Daily(SalesForecast):
    name = "{name}"
    source = "{name}.days"
    target = "{name}.forecasts"
    days = Days(Bought, DAYS.amounts, DAYS.told, DAYS.history_of, DAYS.history)


class Buyers(PurchasePropensityWorker):
    name = "{name}"
    source = "{name}"
    target = "{name}.propensities"
    windows = PurchasePropensityWorker.windows


class Plain(PurchasePropensityWorker):
    name = "{name}"
    source = "{name}"
    target = "{name}.propensities"
    windows = ()
    feature_key = lambda self, event: None
    encode = lambda self, events, features: PurchasePropensityWorker.encode(
        self, events, [dict.fromkeys(NAMES, 0.0)] * len(events)
    )


from workers.purchase_propensity.windows import NAMES
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Place:
    """A topic of two days' invoices on a broker with ACLs, and the commands of one user."""

    def __init__(self, kafka: SecureKafka, redis: Redis, folder: Path) -> None:
        self.kafka = kafka
        self.redis = redis.client()
        self.folder = folder
        self.name = create_topic(kafka.bootstrap, unique("shop"), 1)
        self.group = f"streamer-{self.name}"
        table = changelog(self.group, Entities(WINDOWS).version)
        for topic in (f"{self.name}.days", f"dlq.{self.name}", f"{self.name}.propensities.backfill", table):
            create_topic(kafka.bootstrap, topic, 1)
        (folder / "mine.py").write_text(WORKERS.format(name=self.name))
        start = datetime(2026, 3, 1, 12, tzinfo=UTC)
        line = InvoiceLine(article="85123A", pieces=6, price=2.5)
        invoices = [
            InvoiceEvent(
                event_id=f"i{day}",
                occurred_at=start + timedelta(days=day),
                invoice_id="1",
                customer_id="c",
                lines=(line,),
            )
            for day in range(3)
        ]
        rows = [(one.key.encode(), one.model_dump_json().encode()) for one in invoices]
        produce_many(kafka.bootstrap, self.name, [*rows, (b"c", b"{")])
        client = {f"kafka__client__{name.replace('.', '_')}": value for name, value in kafka.by_scram().items()}
        settings = environment(kafka__bootstrap_servers=kafka.sasl, cache__url=redis.url, **client)
        self._environment = {**settings, "TMPDIR": str(folder)}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        (self.folder / "log").unlink(missing_ok=True)  # what was said before is of other rights
        return start(words, self.folder, self._environment)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def needs_each(self, given: list[Right], words: list[str], done: Callable[[], bool]) -> None:
        """Without any one right the command ends with 69 and names it; with all it does what it is for."""
        self.kafka.grant(given)
        for right in given:
            self.kafka.revoke([right])
            process = self.start(*words)
            try:
                assert process.wait(90) == 69, f"{right}: {self.log()}"
            finally:
                process.kill()
                process.wait()
            named = f"needs {right.operation.upper()} on {right.resource.replace('-', ' ')} {right.name}"
            assert named in self.log().splitlines()[-1], self.log()
            self.kafka.grant([right])
        process = self.start(*words)
        deadline = time.monotonic() + 90
        try:
            while not done():
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.2)
            if words[0] != "backfill":  # which ends by itself
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, self.log()
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def place(secure_kafka: SecureKafka, redis_server: Redis, tmp_path: Path) -> Place:
    return Place(secure_kafka, redis_server, tmp_path)


def test_days_need_each_of_their_rights(place: Place) -> None:
    given = rights("days", SOURCE=place.name, TARGET=f"{place.name}.days", GROUP=place.group)
    assert len(given) == 5
    place.needs_each(
        given, ["days", "mine.py:Daily"], lambda: count_topic(place.kafka.bootstrap, f"{place.name}.days") == 2
    )


def test_a_backfill_needs_each_of_its_rights(place: Place) -> None:
    target = f"{place.name}.propensities.backfill"
    given = rights("backfill", SOURCE=place.name, TARGET=target, GROUP=place.group)
    assert len(given) == 5
    ended = datetime.now(UTC).isoformat()
    words = ["backfill", "mine.py:Plain", "--from", "start", "--to", ended]
    place.needs_each(given, words, lambda: count_topic(place.kafka.bootstrap, target) == 3)


def test_windows_need_each_of_their_rights_and_speak_tls(place: Place) -> None:
    given = rights("windows", SOURCE=place.name, GROUP=place.group)
    shown = lambda: bool(place.redis.keys(f"streamer:windows:{place.name}.*"))  # noqa: E731
    place.needs_each(given, ["windows", "mine.py:Buyers"], shown)
