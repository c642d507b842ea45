"""A stream whose records are given one by one: for faults that lie in the records, and in the topics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Message, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from schemas import DeadLetter
from streamer.records import Messages
from streamer.slices import Rows
from streamer.wire import headers
from streamer.wire.codec import JsonCodec
from tests.faults.checker import Input, Outcome, Report, check
from tests.faults.stream import Stream, patiently
from tests.services import read_topic

MESSAGE_BYTES_MAX = 16 << 20


class Script(Stream):
    """Topics, workers and the oracle of a stream, and nothing written but what a test puts."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.given: list[Input] = []
        self.admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 0})
        self._writer = Producer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "enable.idempotence": True,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "log_level": 0,
            }
        )

    def _produce(self) -> None:
        """Nothing by itself."""

    def put(
        self,
        value: bytes | None,
        outcome: Outcome = "prediction",
        *,
        key: bytes | None = b"k",
        partition: int = 0,
        times: int = 1,
    ) -> None:
        """Write a record, wait until it is acknowledged, and note what must become of it."""

        def acknowledged(error: Any, message: Message) -> None:
            assert error is None, error
            self.given.append(given(message, outcome))

        for _ in range(times):
            self._writer.produce(self.source, value, key, partition, on_delivery=acknowledged)
        assert self._writer.flush(30) == 0

    def alter(self, topic: str, **config: str) -> None:
        """Change settings of a topic; `_` stands for the dots of their names."""
        alter_config(self.admin, ResourceType.TOPIC, topic, {name.replace("_", "."): v for name, v in config.items()})

    def delete(self, topic: str) -> None:
        """Delete a topic and wait until the broker says that there is none."""
        self.admin.delete_topics([topic])[topic].result(15)
        self._wait(lambda: topic not in self.admin.list_topics(timeout=10).topics, 15, f"end of topic {topic}")

    def until(self, true: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait for something, and show the logs when it does not come."""
        self._wait(true, timeout_s, what)

    def report(self) -> Report:
        return check(self.given, self.outputs())

    def letters(self) -> dict[tuple[int, int], tuple[DeadLetter, Message]]:
        """The dead letters by partition and offset of their source."""
        found = {}
        for message in patiently(lambda: read_topic(self.kafka.bootstrap, self.dead_letters)):
            said = headers.dead_letter(message.headers())
            found[said.source.partition, said.source.offset] = (said, message)
        return found


def event(number: int, /, **more: Any) -> bytes:
    """The JSON of a good event, or of one that `more` spoils."""
    fields = {
        "event_id": f"e{number}",
        "occurred_at": "2026-01-01T00:00:00Z",
        "number": number,
        "name": "k",
        "fault": "",
    }
    return json.dumps(fields | more).encode()


def given(message: Message, outcome: Outcome) -> Input:
    """What must become of a record that was written."""
    place = (message.topic() or "", message.partition() or 0, message.offset() or 0)
    if outcome != "prediction":
        return Input(place, message.key(), outcome)
    said = json.loads(message.value() or b"")
    return Input(place, message.key(), outcome, said["event_id"], 2.0 * said["number"])


def alter_config(admin: AdminClient, kind: Any, name: str, config: Mapping[str, str]) -> None:
    """Set, and wait until the broker has it."""
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)  # type: ignore[no-untyped-call]
        for key, value in config.items()
    ]
    resource = ConfigResource(kind, name, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(15)
    time.sleep(0.2)  # the controller has it; the broker reads it a moment later


def drop_dead_letters() -> None:
    """A planted bug: what cannot be answered is passed over, and its position moves on."""
    encode = JsonCodec.encode

    def dropping(codec: JsonCodec, rows: Rows) -> list[Messages]:
        return [run for run in encode(codec, rows) if not run.topic.startswith("dlq.")]

    JsonCodec.encode = dropping  # type: ignore[method-assign]
