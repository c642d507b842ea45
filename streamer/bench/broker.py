"""The topics of a run: its own, deleted afterwards. Of the worker's real topics, only the number of partitions is
read."""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from schemas import dead_letters
from streamer.demo.children import Program
from streamer.demo.serve import make_topics
from streamer.errors import Unreachable
from streamer.kafka import clients
from streamer.settings import Settings
from streamer.worker import Worker

PARTITIONS = 4
"""The number of partitions where the worker's source topic does not exist yet, and on a mock broker."""
BROKER_BYTES_MAX = 1_048_588
"""The largest message that a broker takes by default."""
TOPICS_S = 15.0
MOCK_BYTES_MAX = 5 << 20
"""A mock broker keeps this much of a partition and drops the oldest."""
MOCK_ANSWER_BYTES = 700
"""A prediction of a small answer, with its envelope."""
MOCK_FILL = 0.4
"""How full its partitions may get: keys do not spread evenly."""
MOCK_SAID = "mock broker: says nothing about exactly-once; at most 5 MiB a partition"


class Places(NamedTuple):
    """The topics of one run, and the group that reads them."""

    source: str
    target: str
    group: str
    partitions: int

    @property
    def dead(self) -> str:
        """Where dead letters go."""
        return dead_letters(self.source)

    @property
    def topics(self) -> tuple[str, str, str]:
        """All of them."""
        return self.source, self.target, self.dead


class Broker(Protocol):
    """The broker for the runs of one report. `settings` lead to it; `said` is its name for people."""

    settings: Settings
    said: str
    partitions: int

    def places(self) -> Any:
        """A context manager: empty topics, deleted at its end."""

    def events_max(self, event_bytes: float) -> int | None:
        """How many events of this size a run may send; None: no limit."""


class KafkaBroker:
    """The Kafka of the user's settings."""

    def __init__(self, settings: Settings, worker: Worker[Any, Any]) -> None:
        """Find out how many partitions the worker's source has.

        Raises:
            Unreachable: the broker does not answer.
        """
        self.settings = settings
        self.said = f"Kafka at {settings.kafka.bootstrap_servers}"
        self._name = worker.name
        self._admin: Any = clients.admin(settings)
        try:
            found = clients.counts(self._admin, settings, [worker.source])[worker.source]
        except Unreachable as error:
            raise Unreachable(f"{error} To try without a Kafka, on a mock broker: --embedded") from error
        self.partitions = found or PARTITIONS

    @contextmanager
    def places(self) -> Iterator[Places]:
        """Empty topics and a new group, deleted at the end, also after an error.

        Raises:
            Unreachable: the broker does not create the topics; the message says why.
        """
        places = _named(self._name, self.partitions)
        try:
            self._make(places)
            yield places
        finally:
            self._delete(places)

    def events_max(self, event_bytes: float) -> int | None:
        return None

    def _make(self, places: Places) -> None:
        # A dead letter is the record plus headers that say why.
        large = {"max.message.bytes": str(2 * max(BROKER_BYTES_MAX, self.settings.limits.record_bytes_max))}
        new = [
            NewTopic(topic, places.partitions, -1, config=large if topic == places.dead else {})
            for topic in places.topics
        ]
        with clients.explained(self._admin, self.settings):
            for topic, made in self._admin.create_topics(new, operation_timeout=clients.TIMEOUT_S).items():
                try:
                    made.result(2 * clients.TIMEOUT_S)
                except KafkaException as error:
                    cure = "give this user the right to create, write, read and delete bench.* and dlq.bench.*"
                    raise Unreachable(f"the broker does not create {topic}: {error.args[0].str()}; {cure}") from error
            end = time.monotonic() + TOPICS_S
            while not self._all_led(places):
                if time.monotonic() > end:
                    raise Unreachable(f"{places.source} has no leaders after {TOPICS_S:.0f} s; are all brokers up?")
                time.sleep(0.05)

    def _all_led(self, places: Places) -> bool:
        known = self._admin.list_topics(timeout=clients.TIMEOUT_S).topics
        return all(
            topic in known
            and len(known[topic].partitions) == places.partitions
            and all(partition.leader >= 0 for partition in known[topic].partitions.values())
            for topic in places.topics
        )

    def _delete(self, places: Places) -> None:
        left = []
        for topic, gone in self._admin.delete_topics(list(places.topics)).items():
            try:
                gone.result(TOPICS_S)
            except KafkaException:
                left.append(topic)
        with suppress(KafkaException):  # else the group goes when its topics' offsets are gone
            for gone in self._admin.delete_consumer_groups([places.group]).values():
                gone.result(clients.TIMEOUT_S)
        there = clients.counts(self._admin, self.settings, left) if left else {}
        if left := [topic for topic in left if there[topic] is not None]:
            print(f"streamer: the broker did not delete these topics; delete them: {', '.join(left)}", file=sys.stderr)


class MockBroker:
    """librdkafka's mock cluster in a process of its own, as the demo has it."""

    partitions = PARTITIONS

    def __init__(self, settings: Settings, worker: Worker[Any, Any], program: Program) -> None:
        self._name = worker.name
        self.settings = Settings(
            **{
                **settings.model_dump(exclude={"kafka"}),
                # A mock broker waits all of this time before it looks again.
                "kafka": {"bootstrap_servers": program.line(), "client": {"fetch.wait.max.ms": "5"}},
            }
        )
        self.said = MOCK_SAID

    @contextmanager
    def places(self) -> Iterator[Places]:
        """Empty topics; they end with the broker's process."""
        places = _named(self._name, self.partitions)
        make_topics(self.settings, places.source, (places.target, places.dead), places.group)
        yield places

    def events_max(self, event_bytes: float) -> int | None:
        return int(MOCK_FILL * self.partitions * MOCK_BYTES_MAX / max(event_bytes, MOCK_ANSWER_BYTES))


@contextmanager
def mock_broker(settings: Settings, worker: Worker[Any, Any], folder: Path) -> Iterator[MockBroker]:
    """A mock broker until the end of the block."""
    program = Program("the mock broker", "streamer.demo.broker", [], folder / "broker.log")
    try:
        yield MockBroker(settings, worker, program)
    finally:
        program.kill()


def _named(worker: str, partitions: int) -> Places:
    name = f"bench.{re.sub('[^A-Za-z0-9._-]', '-', worker)}.{uuid.uuid4().hex[:8]}"
    return Places(f"{name}.events", f"{name}.answers", name, partitions)
