"""One worker of the demo, in a process of its own: as `streamer run`, on topics that it creates first."""

from __future__ import annotations

import sys
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas import dead_letters
from streamer import app, discovery
from streamer.errors import Exit, Unreachable
from streamer.settings import Settings
from streamer.settings.loading import client_config
from streamer.telemetry import log

TOPICS_S = 10.0


def serve(name: str, values: dict[str, Any]) -> None:
    """Serve until SIGTERM; `values` are all settings of the worker, whatever the user has set elsewhere."""
    settings = Settings(**values)
    log.configure(settings.log.level, settings.log.format)
    try:
        worker = discovery.find(name)
        make_topics(settings, worker.source, (worker.target, dead_letters(worker.source)), settings.kafka.group(name))
        app.run(settings, worker())
    except Exit as error:
        print(f"streamer: {error}", file=sys.stderr)
        sys.exit(error.code)


def make_topics(settings: Settings, source: str, others: tuple[str, ...], group: str) -> None:
    """Ask the broker for the topics, by which it creates them, and let the worker's new `group` begin at the end of
    `source`.

    Raises:
        Unreachable: the broker creates no topics by itself, or does not answer.
    """
    client = Consumer({**client_config(settings), "group.id": group, "allow.auto.create.topics": "true"})
    try:
        for topic in others:
            _made(client, topic)
        partitions = [TopicPartition(source, partition) for partition in _made(client, source)]
        for partition in partitions:
            partition.offset = client.get_watermark_offsets(partition, timeout=TOPICS_S)[1]
        client.commit(offsets=partitions, asynchronous=False)
    except KafkaException as error:
        raise Unreachable(f"{settings.kafka.bootstrap_servers}: {error.args[0].str()}; is the broker up?") from error
    finally:
        client.close()


def _made(client: Consumer, topic: str) -> list[int]:
    end = time.monotonic() + TOPICS_S
    while time.monotonic() < end:
        found = client.list_topics(topic, timeout=TOPICS_S).topics[topic]
        if found.error is None and found.partitions:
            return list(found.partitions)
        time.sleep(0.1)  # a broker first reports no leader for a topic that it has just created
    workers = " ".join(discovery.without_windows())
    raise Unreachable(f"the broker does not create topic {topic} by itself; create it: streamer topics apply {workers}")
