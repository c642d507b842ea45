"""A stream under fault: fresh topics, a producer that never pauses, workers, and the verdict at the end."""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from schemas.topics import dead_letters
from streamer.wire import headers
from tests.faults.checker import Input, Outcome, Output, Report, check
from tests.faults.process import WorkerProcess
from tests.faults.transactions import Audit, Logs, audit
from tests.faults.worker_main import Plan
from tests.services import Cluster, Kafka, create_topic, end_offsets, read_topic, unique
from tests.services.admin import admin_of

T = TypeVar("T")

KEYS = 97
BROKEN_VALUES = (b"", b"{", b"\xff\xfe", b"[]", b'{"number": "1"}', b'{"number": NaN}')

CLASSIC = {"session.timeout.ms": "3000", "heartbeat.interval.ms": "500"}
CONSUMER = {"group.protocol": "consumer"}  # the broker decides its session timeout: 3 s too
PROTOCOLS: Mapping[str, Mapping[str, str]] = {"classic": CLASSIC, "consumer": CONSUMER}


class Stream:
    """Writes `rate` events a second from `__enter__` to `finish`; one event in `broken_every` cannot be answered.
    Its workers reach the broker at `via`, if that is not its own address. Reading a topic may take `read_s`."""

    def __init__(
        self,
        kafka: Kafka | Cluster,
        folder: Path,
        *,
        protocol: str = "classic",
        partitions: int = 6,
        rate: int = 600,
        broken_every: int = 0,
        via: str = "",
        read_s: float = 30,
    ) -> None:
        self.kafka = kafka
        self.via = via or kafka.bootstrap
        self.group = unique("faults")
        self.source = create_topic(kafka.bootstrap, f"{self.group}.events.v1", partitions)
        self.target = create_topic(kafka.bootstrap, f"{self.group}.doubles.v1", partitions)
        self.dead_letters = create_topic(kafka.bootstrap, dead_letters(self.source), partitions)
        self.protocol = protocol
        self._client = PROTOCOLS[protocol]
        self.partitions = partitions
        self._folder = folder
        self._rate = rate
        self._read_s = read_s
        self._broken_every = broken_every
        self._workers: list[WorkerProcess] = []
        self._numbers = itertools.count()
        self._trimmed: dict[tuple[str, int], int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": self.group, "log_level": 0})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for worker in self._workers:
            worker.signal(signal.SIGCONT)
            worker.kill()
        self._reader.close()

    def start(
        self,
        slot: str = "a",
        *,
        client: Mapping[str, str] | None = None,
        process: type[WorkerProcess] = WorkerProcess,
        **options: Any,
    ) -> WorkerProcess:
        """Start a worker; `options` are those of `Plan`."""
        plan = Plan(
            bootstrap=self.via,
            group=self.group,
            source=self.source,
            target=self.target,
            slot=slot,
            log=str(self._folder / f"{len(self._workers)}-{slot}.log"),
            client={**self._client, **(client or {})},
            **options,
        )
        worker = process(plan)
        self._workers.append(worker)
        return worker

    def committed(self) -> dict[int, int]:
        """The group's position in every partition; 0 where there is none."""
        partitions = [TopicPartition(self.source, number) for number in range(self.partitions)]
        found = patiently(lambda: self._reader.committed(partitions, timeout=60))
        return {one.partition: max(0, one.offset) for one in found}

    def ends(self) -> dict[int, int]:
        """Where every partition ends."""
        return patiently(lambda: end_offsets(self.kafka.bootstrap, self.source))

    def answer(self, records: int, timeout_s: float = 60) -> None:
        """Wait until so many more records are answered."""
        want = sum(self.committed().values()) + records
        self._wait(lambda: sum(self.committed().values()) >= want, timeout_s, f"{records} more answers")

    def keep_brokers(self, folder: Path) -> None:
        """Copy what the brokers have on disk, their own logs too, to look at when all is over."""
        for number, data in enumerate(self.kafka.data(), 1):
            shutil.copytree(data.parent, folder / f"broker-{number}")

    def catch_up(self, timeout_s: float = 60) -> float:
        """Wait until all that is written now is answered. Returns the seconds that it took."""
        began, ends = time.monotonic(), self.ends()  # a broker that is away may take long to say

        def answered() -> bool:
            committed = self.committed()
            return all(committed[number] >= end for number, end in ends.items())

        self._wait(answered, timeout_s, f"up to {ends}")
        return time.monotonic() - began

    def finish(self, timeout_s: float = 90) -> Report:
        """Stop writing, wait until all is answered, and compare."""
        self.drain(timeout_s)
        report = self.report()
        print(f"{len(self._workers)} processes, {report}")  # pytest -rP shows it
        return report

    def drain(self, timeout_s: float = 90) -> None:
        """Stop writing, and wait until all is answered."""
        self._over.set()
        self._thread.join()
        self.catch_up(timeout_s)

    def report(self) -> Report:
        """Compare what was written with what a read_committed reader finds."""
        return check(self.inputs(), self.outputs())

    def audit(self) -> Audit:
        """Hold what every transaction of the workers has committed against what was written."""
        return audit(Logs(self.kafka.data()), self.group, self.inputs(), self.outputs())

    def trim(self) -> None:
        """Delete what is answered and was written more than a moment ago: the disk of a run without an end is not."""
        admin = admin_of(self.kafka.bootstrap)
        before, after = self._trimmed, self._marks()
        self._trimmed = after
        if before:
            admin.delete_records([TopicPartition(topic, number, end) for (topic, number), end in before.items()])

    def _marks(self) -> dict[tuple[str, int], int]:
        """Up to where each topic is done with: the source as far as it is answered, the others as far as they go."""
        marks = {(self.source, number): position for number, position in self.committed().items()}
        for topic in (self.target, self.dead_letters):
            found = patiently(functools.partial(end_offsets, self.kafka.bootstrap, topic))
            marks |= {(topic, number): end for number, end in found.items()}
        return marks

    def inputs(self) -> list[Input]:
        return [as_input(message) for message in read_topic(self.kafka.bootstrap, self.source, timeout_s=self._read_s)]

    def outputs(self) -> list[Output]:
        predictions = read_topic(self.kafka.bootstrap, self.target, timeout_s=self._read_s)
        dead = read_topic(self.kafka.bootstrap, self.dead_letters, timeout_s=self._read_s)
        return [as_prediction(message) for message in predictions] + [as_dead_letter(message) for message in dead]

    def workers(self) -> Iterator[WorkerProcess]:
        """Those that run."""
        return (worker for worker in self._workers if worker.alive())

    def _wait(self, done: Any, timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                for worker in self.workers():
                    worker.signal(signal.SIGUSR1)
                time.sleep(0.5)
                logs = "\n".join(f"--- {w.plan.log}\n{w.log()[-1500:]}" for w in self._workers[-3:])
                raise AssertionError(
                    f"no {what} in {timeout_s} s; committed {self.committed()} of {self.ends()}\n{logs}"
                )
            time.sleep(0.05)

    def _produce(self) -> None:
        # Not idempotent: one that was stood still for ever, with all its messages, when a broker left the cluster's
        # metadata (librdkafka 2.16). What is in the topic is what counts, however often it was sent.
        producer = Producer(
            {"bootstrap.servers": self.kafka.bootstrap, "message.timeout.ms": 60000, "log_level": 0, "linger.ms": 5}
        )
        began = time.monotonic()
        for number in self._numbers:
            if self._over.is_set():
                break
            ahead_s = number / self._rate - (time.monotonic() - began)
            if ahead_s > 0:
                producer.poll(ahead_s)
                self._over.wait(ahead_s)
            producer.produce(self.source, self._value(number), f"k{number % KEYS}")
        assert producer.flush(60) == 0

    def _value(self, number: int) -> bytes:
        fault = ""
        if self._broken_every and number % self._broken_every == 0:
            choice = random.Random(number).randrange(len(BROKEN_VALUES) + 3)
            if choice < len(BROKEN_VALUES):
                return BROKEN_VALUES[choice]
            fault = ("raise", "nan", "skip")[choice - len(BROKEN_VALUES)]
        event = {
            "event_id": f"e{number}",
            "occurred_at": "2026-01-01T00:00:00Z",
            "number": number,
            "name": f"k{number % KEYS}",
            "length": 1 + number % 7,
            "fault": fault,
        }
        return json.dumps(event).encode()


def patiently(ask: Callable[[], T], timeout_s: float = 60) -> T:
    """Ask a broker that has just come back: it may need a moment to know."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def as_input(message: Message) -> Input:
    """What must become of a record of the source."""
    outcome: Outcome = "dead letter"
    event: dict[str, Any] = {}
    try:
        event = json.loads(message.value() or b"")
        outcome = {"": "prediction", "skip": "skip"}.get(event["fault"], "dead letter")  # type: ignore[assignment]
    except (ValueError, KeyError, TypeError):
        event = {}
    return Input(_place(message), message.key(), outcome, event.get("event_id", ""), 2.0 * event.get("number", 0))


def as_prediction(message: Message) -> Output:
    """A record of the target."""
    said = json.loads(message.value() or b"")
    source = said["source"]
    return Output(
        (source["topic"], source["partition"], source["offset"]),
        message.key(),
        "prediction",
        message.topic() or "",
        message.partition() or 0,
        said["event_id"],
        said["answer"]["double"],
        said["prediction_id"],
        message.offset() or 0,
    )


def as_dead_letter(message: Message) -> Output:
    """A record of the dead letters."""
    source = headers.dead_letter(message.headers()).source
    return Output(
        (source.topic, source.partition, source.offset),
        message.key(),
        "dead letter",
        message.topic() or "",
        message.partition() or 0,
        offset=message.offset() or 0,
    )


def _place(message: Message) -> tuple[str, int, int]:
    return message.topic() or "", message.partition() or 0, message.offset() or 0
