"""What the feature store knows of an entity: one Redis hash each, written by the windows process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import redis

from streamer.clock import Clock
from streamer.redis_client import Circuit
from streamer.worker import Features

FIELDS_MAX = 1_000
NAME_BYTES_MAX = 200
"""Bounds of one entity's hash: what is larger is not ours."""


class NoFeatures:
    """The store of a deployment without one."""

    def read_many(self, keys: Sequence[str]) -> list[Features]:
        return [{} for _ in keys]


class RedisFeatures:
    """Reads `streamer:features:<worker>:<entity>`, a hash of name to number, one round trip for all keys.

    `bad_values` is told how many keys held something else, which counts as no features.
    """

    def __init__(self, client: redis.Redis, worker: str, clock: Clock, bad_values: Callable[[int], None]) -> None:
        self._prefix = f"streamer:features:{worker}:"
        self._circuit = Circuit(client, clock, "reading features")
        self._bad_values = bad_values

    def read_many(self, keys: Sequence[str]) -> list[Features]:
        hashes = self._circuit.call(lambda client: self._read(client, keys))
        if hashes is None:
            return [{} for _ in keys]
        found = [_numbers(fields) for fields in hashes]
        if bad := found.count(None):
            self._bad_values(bad)
        return [features or {} for features in found]

    def _read(self, client: redis.Redis, keys: Sequence[str]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            # An entity is whatever an event says; what is no text of Unicode must not fail the others.
            pipeline.hgetall(f"{self._prefix}{key}".encode(errors="surrogatepass"))
        hashes: list[Any] = pipeline.execute(raise_on_error=False)
        if len(hashes) != len(keys):
            raise redis.InvalidResponse
        for fields in hashes:
            # Of one key another type may be said; all else (no right, still loading) is said of every key.
            if isinstance(fields, Exception) and not str(fields).startswith("WRONGTYPE"):
                raise fields
        return hashes


def _numbers(fields: Any) -> Features | None:
    """The hash as numbers; None for what is no hash of finite numbers by short names."""
    if not isinstance(fields, dict) or len(fields) > FIELDS_MAX:
        return None
    try:
        numbers = {name.decode(): float(value) for name, value in fields.items() if len(name) <= NAME_BYTES_MAX}
    except (AttributeError, TypeError, ValueError):
        return None
    return numbers if len(numbers) == len(fields) and all(map(isfinite, numbers.values())) else None
