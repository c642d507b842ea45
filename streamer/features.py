"""What the feature store knows of an entity: one Redis hash each, written by the windows process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pybreaker
import redis
import structlog

from streamer.worker import Features

log = structlog.get_logger(__name__)


class NoFeatures:
    """The store of a deployment without one."""

    def read_many(self, keys: Sequence[str]) -> list[Features]:
        return [{} for _ in keys]


class RedisFeatures:
    """Reads `streamer:features:<worker>:<entity>`, a hash of name to number, one round trip for all keys."""

    def __init__(self, client: redis.Redis, worker: str) -> None:
        self._redis = client
        self._prefix = f"streamer:features:{worker}:"
        self._breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=1, throw_new_error_on_trip=False)

    def read_many(self, keys: Sequence[str]) -> list[Features]:
        try:
            hashes = self._breaker.call(self._read, keys)
        except pybreaker.CircuitBreakerError:
            return [{} for _ in keys]
        except redis.RedisError as error:
            self._redis.connection_pool.disconnect()
            log.warning("feature store failed; going on without", error=type(error).__name__)
            return [{} for _ in keys]
        return [_numbers(fields) for fields in hashes]

    def _read(self, keys: Sequence[str]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(self._prefix + key)
        return pipeline.execute(raise_on_error=False)


def _numbers(fields: Any) -> Features:
    """The hash as numbers; what is no hash of numbers is no features."""
    try:
        return {name.decode(): float(value) for name, value in fields.items()}
    except (AttributeError, ValueError):
        return {}
