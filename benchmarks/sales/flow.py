"""The processes of the flow, and the shop that writes invoices."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from benchmarks.sales.outcomes import Outcomes
from schemas import InvoiceEvent
from streamer.demo.children import Program, free_port
from streamer.demo.scrape import Probe
from streamer.errors import Unreachable
from tests.commands import STREAMER
from workers.purchase_propensity.worker import PurchasePropensityWorker
from workers.sales_forecast.worker import SalesForecast

PARTITIONS = "4"
GAP_S = 3.0
"""Nobody buys at night: the shop waits no longer than this for the next invoice."""
START_S = 120.0


class Places(NamedTuple):
    """Where the flow runs."""

    kafka: str
    redis: str


class Flow:
    """Windows and days from the beginning on; workers that answer."""

    def __init__(self, places: Places, since: date, folder: Path, stack: ExitStack) -> None:
        self._places = places
        self._folder = folder
        self._stack = stack
        self._children: list[tuple[Program, Probe]] = []
        there = AdminClient({"bootstrap.servers": places.kafka}).list_topics(timeout=10).topics
        if InvoiceEvent.topic in there:
            raise Unreachable(
                f"{places.kafka} has a topic {InvoiceEvent.topic} already, with invoices of yours; "
                "the demo wants a Kafka without"
            )
        self._call("topics", "apply", PurchasePropensityWorker.name, SalesForecast.name, "--partitions", PARTITIONS)
        self._start("windows", PurchasePropensityWorker.name)
        self._start("days", SalesForecast.name, "--since", str(since))
        self._start("run", SalesForecast.name)
        self.ready()

    def answer_purchases(self) -> None:
        """Start the worker that answers invoices, those to come alone: what is to be known of the customers first must
        be in the windows."""
        self._start("run", PurchasePropensityWorker.name, "--set", "kafka.start=latest")
        self.ready()

    def ready(self) -> None:
        """Wait until every process serves."""
        deadline = time.monotonic() + START_S
        while not all(probe.ok("/readyz") for _, probe in self._children):
            self.check()
            if time.monotonic() > deadline:
                raise Unreachable(f"not all processes serve after {START_S:.0f} s; their logs are in {self._folder}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raises `Died` with the end of its log if a process has ended."""
        for child, _ in self._children:
            child.check()

    def stop(self) -> None:
        """Let every process end in order."""
        for child, _ in self._children:
            child.ask_to_stop()
        for child, _ in self._children:
            child.stopped(30)

    def _start(self, verb: str, worker: str, *more: str) -> None:
        port = free_port()
        command = [STREAMER, verb, worker, *self._sets(), "--set", f"http.port={port}", *more]
        name = f"{verb} {worker}"
        child = Program(name, "streamer.demo.children", command, self._folder / f"{name.replace(' ', '-')}.log")
        self._stack.callback(child.kill)
        self._children.append((child, Probe(port)))

    def _call(self, *arguments: str) -> None:
        subprocess.run([STREAMER, *arguments, *self._sets()], check=True, stdout=subprocess.DEVNULL)

    def _sets(self) -> list[str]:
        said = {
            "kafka.bootstrap_servers": self._places.kafka,
            "cache.url": self._places.redis,
            "allow_insecure": "true",
            "log.format": "json",
        }
        return [part for name, value in said.items() for part in ("--set", f"{name}={value}")]


class Shop:
    """Writes invoices: the past at once, then what follows at `speed` times the pace at which it happened."""

    def __init__(self, bootstrap: str, outcomes: Outcomes) -> None:
        client = {"bootstrap.servers": bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
        self._producer = Producer(client, logger=logging.getLogger("librdkafka"))
        self._outcomes = outcomes
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.now: datetime | None = None
        """The time in the shop."""

    def past(self, invoices: Sequence[InvoiceEvent]) -> None:
        """Write all of them."""
        for invoice in invoices:
            self._write(invoice)
        self._flush()

    def live(self, invoices: Sequence[InvoiceEvent], speed: float) -> None:
        """Begin to write them as they happened, in a thread."""
        self._thread = threading.Thread(target=self._live, args=(invoices, speed), daemon=True)
        self._thread.start()

    def open(self) -> bool:
        """Whether there are more to come."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Write no more, and see that what was written is there."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def _live(self, invoices: Sequence[InvoiceEvent], speed: float) -> None:
        due, before = time.monotonic(), invoices[0].occurred_at if invoices else None
        for invoice in invoices:
            assert before is not None
            due += min(GAP_S, (invoice.occurred_at - before).total_seconds() / speed)
            before = invoice.occurred_at
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            self.now = invoice.occurred_at
            self._outcomes.asked(invoice)
            self._write(invoice)
            self._producer.poll(0)

    def _write(self, invoice: InvoiceEvent) -> None:
        value, key = invoice.model_dump_json().encode(), invoice.key.encode()
        while True:
            try:
                return self._producer.produce(InvoiceEvent.topic, value, key)
            except BufferError:
                self._producer.poll(0.1)

    def _flush(self) -> None:
        if left := self._producer.flush(60):
            raise Unreachable(f"the broker did not take {left} invoices within a minute")
