"""`kafka.start = "latest"`: the moment at which the group began, for all partitions at once."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, TopicPartition

from streamer.kafka.consuming import DEFAULTS
from streamer.kafka.source import NOWHERE, KafkaSource
from streamer.testing import ManualClock


class Client:
    """A consumer of a topic whose partitions end at 10, 11, 12, …"""

    def __init__(self, partitions: int, group: dict[int, int]) -> None:
        self.partitions = partitions
        self.group = group
        self.seeks: dict[int, int] = {}

    def committed(self, asked: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [TopicPartition("t", tp.partition, self.group.get(tp.partition, OFFSET_INVALID)) for tp in asked]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.group |= {tp.partition: tp.offset for tp in offsets}
        return offsets

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=dict.fromkeys(range(self.partitions)))})

    def get_watermark_offsets(self, tp: TopicPartition, timeout: float) -> tuple[int, int]:
        return 3, 10 + tp.partition

    def seek(self, tp: TopicPartition) -> None:
        self.seeks[tp.partition] = tp.offset

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        pass

    pause = resume = incremental_assign


def assigned(client: Client, *partitions: int, start: str = "latest") -> KafkaSource:
    source = KafkaSource({"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}, "t", start, ManualClock())
    source._consumer = client
    source._on_assign(client, [TopicPartition("t", partition) for partition in partitions])
    if source._unplaced:
        source._place()
    return source


def test_the_replica_of_partition_0_commits_the_ends_of_all_partitions() -> None:
    client = Client(4, {})
    source = assigned(client, 0, 2)
    assert client.group == {0: 10, 1: 11, 2: 12, 3: 13}
    assert source._positions == client.seeks == {0: 10, 2: 12}


def test_the_others_wait_for_it() -> None:
    client = Client(4, {})
    source = assigned(client, 1, 3)
    assert source._positions == {1: NOWHERE, 3: NOWHERE}
    assert client.group == {}, "it may not decide when the group began"
    assigned(client, 0, 2)
    client.seeks.clear()
    source._place()
    assert client.seeks == source._positions == {1: 11, 3: 13}


@pytest.mark.parametrize("partitions", [(3,), (0, 3), (2, 3)])
def test_a_partition_that_came_after_the_group_began_is_read_from_its_beginning(partitions: tuple[int, ...]) -> None:
    began = {0: 7, 1: 8, 2: 9}
    client = Client(4, dict(began))
    assert assigned(client, *partitions)._positions[3] == OFFSET_BEGINNING
    assert client.group == began, "nothing is committed but outcomes"


def test_a_group_that_starts_at_the_beginning_commits_nothing_at_first() -> None:
    client = Client(4, {})
    assert assigned(client, 0, 1, start="earliest")._positions == {0: OFFSET_BEGINNING, 1: OFFSET_BEGINNING}
    assert client.group == {}


def test_new_partitions_are_found_within_half_a_minute() -> None:
    assert int(DEFAULTS["topic.metadata.refresh.interval.ms"]) <= 30_000
