"""What comes out of the flow, and whether it is all there."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from schemas import (
    ARTICLE_FORECASTS,
    PURCHASE_PROPENSITIES,
    ArticleDayEvent,
    ArticleForecast,
    Expected,
    InvoiceEvent,
    Prediction,
    PurchasePropensity,
    dead_letters,
)
from workers.purchase_propensity.worker import PurchasePropensityWorker
from workers.sales_forecast.worker import SalesForecast

SAID = 8
WORKER, FORECAST = PurchasePropensityWorker(), SalesForecast()
DEAD = (dead_letters(InvoiceEvent.topic), dead_letters(ArticleDayEvent.topic))
TOPICS = (ARTICLE_FORECASTS, PURCHASE_PROPENSITIES, ArticleDayEvent.topic, *DEAD)


class Counts(NamedTuple):
    """What went in, and what came of it. All asked for is answered when each pair is equal."""

    purchases: int
    propensities: int
    days: int
    forecasts: int
    dead: int


class Outcomes:
    """A reader of committed records, in a thread of its own."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "streamer-demo-sales",  # never joined: partitions are assigned by hand
                "isolation.level": "read_committed",
                "enable.auto.commit": "false",
                "fetch.wait.max.ms": "50",
            },
            logger=logging.getLogger("librdkafka"),
        )
        self._lock = threading.Lock()
        self._asked: dict[str, float] = {}
        self._days = self._dead = 0
        self._ids: set[str] = set()
        self.repeated = 0
        """Predictions that were there already: none, or exactly-once is broken."""
        self.propensities: dict[str, float] = {}
        self.forecasts: dict[tuple[str, date], Expected] = {}
        """What is expected of an article in the seven days after a day."""
        self.last: date = date.min
        """The latest day after which something is expected."""
        self.latencies: deque[float] = deque(maxlen=2_000)
        self.said: deque[str] = deque(maxlen=SAID)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Read all topics from the beginning on."""
        known = self._consumer.list_topics(timeout=10).topics
        places = [TopicPartition(topic, partition, 0) for topic in TOPICS for partition in known[topic].partitions]
        self._consumer.assign(places)
        self._thread.start()

    def stop(self) -> None:
        """Read nothing more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
            self._consumer.close()

    def asked(self, invoice: InvoiceEvent) -> None:
        """This one is about to be written, and should be answered if the worker accepts it."""
        if WORKER.accepts(invoice):
            with self._lock:
                self._asked[invoice.event_id] = time.monotonic()

    def counts(self) -> Counts:
        """As of now."""
        with self._lock:
            return Counts(len(self._asked), len(self.propensities), self._days, len(self.forecasts), self._dead)

    def _run(self) -> None:
        while not self._stopping.is_set():
            messages = self._consumer.consume(500, 0.1)
            with self._lock:
                self._take(messages, time.monotonic())

    def _take(self, messages: Sequence[Any], at: float) -> None:
        for message in messages:
            if message.error() is not None:
                continue
            if message.topic() == ArticleDayEvent.topic:
                self._days += 1
            elif message.topic() in DEAD:
                self._dead += 1
            elif message.topic() == ARTICLE_FORECASTS:
                self._forecast(Prediction[ArticleForecast].model_validate_json(message.value()))
            else:
                self._propensity(Prediction[PurchasePropensity].model_validate_json(message.value()), at)

    def _forecast(self, found: Prediction[ArticleForecast]) -> None:
        self._count(found)
        article, _, day = found.event_id.partition("/")
        self.forecasts[article, date.fromisoformat(day)] = found.answer.total
        self.last = max(self.last, date.fromisoformat(day))

    def _propensity(self, found: Prediction[PurchasePropensity], at: float) -> None:
        self._count(found)
        self.propensities[found.event_id] = found.answer.probability
        if (asked := self._asked.get(found.event_id)) is not None:
            self.latencies.append(at - asked)
        self.said.append(f"invoice {found.event_id}: {WORKER.words(found.answer)}")

    def _count(self, found: Prediction[Any]) -> None:
        self.repeated += found.prediction_id in self._ids
        self._ids.add(found.prediction_id)
