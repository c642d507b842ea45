"""What the feature store knows of entities: one value in Redis for each, and one round trip for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import redis

from streamer.cache.redis_client import Circuit
from streamer.clock import Clock
from streamer.features.entities import Entities, Kept, decode
from streamer.slices import Row
from streamer.worker import Features

FIELDS_MAX = 1_000
NAME_BYTES_MAX = 200
"""Bounds of one entity's hash: a larger one is not ours."""

BadValues = Callable[[int], None]
"""Called with how many values in Redis were no features; they count as missing."""


class NoFeatures:
    """The store of a deployment without one."""

    def read_many(self, rows: Sequence[Row], entities: Sequence[str]) -> list[tuple[Row, Exception]]:
        return []


class RedisFeatures:
    """Reads `streamer:features:<worker>:<entity>`, a hash of name to number that any process may write."""

    def __init__(self, client: redis.Redis, worker: str, clock: Clock, bad_values: BadValues) -> None:
        self._prefix = f"streamer:features:{worker}:"
        self._circuit = Circuit(client, clock, "reading features")
        self._bad_values = bad_values

    def read_many(self, rows: Sequence[Row], entities: Sequence[str]) -> list[tuple[Row, Exception]]:
        hashes = self._circuit.call(lambda client: self._read(client, entities))
        if hashes is None:
            return []
        found = [_numbers(fields) for fields in hashes]
        if bad := found.count(None):
            self._bad_values(bad)
        for row, features in zip(rows, found, strict=True):
            row.give(features or {})
        return []

    def _read(self, client: redis.Redis, entities: Sequence[str]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for entity in entities:
            # An event may name any entity: a name that is not valid Unicode must not fail the others.
            pipeline.hgetall(f"{self._prefix}{entity}".encode(errors="surrogatepass"))
        hashes: list[Any] = pipeline.execute(raise_on_error=False)
        if len(hashes) != len(entities):
            raise redis.InvalidResponse
        for fields in hashes:
            # A wrong type concerns one key; any other error (no right, still loading) concerns every key.
            if isinstance(fields, Exception) and not str(fields).startswith("WRONGTYPE"):
                raise fields
        return hashes


class WindowFeatures:
    """Reads what `streamer windows` keeps of an entity, and says its features at the event's time.

    The features always include the event itself. While the windows are behind, earlier events of the entity may be
    missing. While the worker is behind, later ones may be there already. `as_of` says which are in.
    """

    def __init__(
        self, client: redis.Redis, worker: str, entities: Entities, clock: Clock, bad_values: BadValues
    ) -> None:
        self._worker = worker
        self._entities = entities
        self._circuit = Circuit(client, clock, "reading windows")
        self._bad_values = bad_values

    def read_many(self, rows: Sequence[Row], entities: Sequence[str]) -> list[tuple[Row, Exception]]:
        version = self._entities.version
        keys = [
            entity_key(self._worker, version, row.partition, entity) for row, entity in zip(rows, entities, strict=True)
        ]
        values = self._circuit.call(lambda client: _values(client, keys))
        bad, failed = 0, list[tuple[Row, Exception]]()
        for row, value in zip(rows, values or [None] * len(rows), strict=True):
            kept = _kept(value)
            try:
                if kept is None or not self._fill(row, kept):
                    bad += 1
                    row.give(*self._entities.known(Kept(), row.event, row.offset))
            except Exception as error:  # a window fails on the event
                failed.append((row, error))
        if bad:
            self._bad_values(bad)
        return failed

    def _fill(self, row: Row, kept: Kept) -> bool:
        """Fill in the features; False where what is kept is not ours. It may fit our types, and yet not be joinable."""
        try:
            row.give(*self._entities.known(kept, row.event, row.offset))
        except Exception:
            return False
        return True


def entity_key(worker: str, version: str, partition: int, entity: str) -> bytes:
    """The key of an entity in Redis. It names the partition, because the offsets in the value are that partition's."""
    return f"streamer:windows:{worker}.{version}:{partition}:{entity}".encode(errors="surrogatepass")


def _values(client: redis.Redis, keys: Sequence[bytes]) -> list[bytes | None]:
    values: list[Any] = client.mget(keys)
    if len(values) != len(keys):
        raise redis.InvalidResponse
    return values


def _kept(value: bytes | None) -> Kept | None:
    """What is kept of an entity, empty where there is no value; None for a value that we never wrote."""
    if value is None:
        return Kept()
    try:
        return decode(value)
    except ValueError:
        return None


def _numbers(fields: Any) -> Features | None:
    """The hash as numbers; None if it is not a hash of finite numbers by short names."""
    if not isinstance(fields, dict) or len(fields) > FIELDS_MAX:
        return None
    try:
        numbers = {name.decode(): float(value) for name, value in fields.items() if len(name) <= NAME_BYTES_MAX}
    except (AttributeError, TypeError, ValueError):
        return None
    return numbers if len(numbers) == len(fields) and all(map(isfinite, numbers.values())) else None
