"""Fixtures for real servers: started when the first test asks, once for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services import Kafka, Redis, create_topic, start_kafka, start_redis, unique


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real broker. A test that breaks it must leave it running: `kafka.start()` or `kafka.resume()`."""
    with start_kafka() as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A real Redis. Tests share it: use keys of your own, and leave it running."""
    with start_redis() as server:
        yield server


@pytest.fixture
def topic(kafka: Kafka) -> str:
    """A new topic of four partitions; for more topics or other sizes call `create_topic`."""
    return create_topic(kafka.bootstrap)


@pytest.fixture
def group_id() -> str:
    """A consumer group, or a transactional id, that no other test has used."""
    return unique("group")
