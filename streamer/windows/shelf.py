"""The entities in Redis, where workers read them: a copy of the table that heals itself.

With every block a mark says how far the copy goes, and Redis says what the mark was before. Where that is not the mark
that was last written, the copy is not ours any more: Redis was lost, restored, or written by a process that was thought
dead. Then all of the partition is written again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import redis
import structlog

from streamer.cache.redis_client import Circuit
from streamer.clock import Clock
from streamer.features.reading import entity_key

log = structlog.get_logger(__name__)

CHUNK = 500
"""Entities of a round trip when all are written again."""

Everything = Callable[[], Iterable[tuple[bytes, bytes]]]


class Shelf:
    """Writes what changed of a partition, and all of it where that is needed. Never raises: Redis may be away."""

    def __init__(self, client: redis.Redis, worker: str, version: str, clock: Clock) -> None:
        self._circuit = Circuit(client, clock, "writing windows")
        self._worker = worker
        self._version = version
        self._process = uuid.uuid4().hex
        self._marks: dict[int, bytes] = {}
        self.restored = 0
        """Entities that were written though they had not changed."""

    async def show(self, partition: int, at: int, changed: Mapping[bytes, bytes], everything: Everything) -> bool:
        """Write what the records up to offset `at` changed. Returns whether the copy is whole."""
        mark = f"{self._process}:{at}".encode()
        known = self._marks.pop(partition, None)
        if known is not None:
            before = self._circuit.call(lambda client: self._write(client, partition, changed.items(), mark))
            if before is None:
                return False
            if before[0] == known:
                self._marks[partition] = mark
                return True
            log.warning(
                "redis: the windows of a partition are not as they were written; writing all", partition=partition
            )
        return await self._rebuild(partition, mark, everything)

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget the marks of partitions that another process may have now."""
        for partition in partitions:
            self._marks.pop(partition, None)

    async def _rebuild(self, partition: int, mark: bytes, everything: Everything) -> bool:
        left, half = iter(everything()), f"{self._process}:half".encode()  # another owner of the partition sees it
        written = 0
        while chunk := list(islice(left, CHUNK)):
            if self._circuit.call(lambda client, chunk=chunk: self._write(client, partition, chunk, half)) is None:  # type: ignore[misc]
                return False
            written += len(chunk)
            await asyncio.sleep(0)  # there may be millions
        if self._circuit.call(lambda client: self._write(client, partition, (), mark)) is None:
            return False
        self._marks[partition] = mark
        self.restored += written
        return True

    def _write(
        self, client: redis.Redis, partition: int, entities: Iterable[tuple[bytes, bytes]], mark: bytes
    ) -> tuple[bytes | None]:
        """Write values and mark, all or nothing. Returns the mark from before."""
        pipeline = client.pipeline(transaction=True)
        for entity, value in entities:
            pipeline.set(self._key(partition, entity), value)
        pipeline.set(f"streamer:windows-mark:{self._worker}.{self._version}:{partition}", mark, get=True)
        return (pipeline.execute()[-1],)

    def _key(self, partition: int, entity: bytes) -> bytes:
        return entity_key(self._worker, self._version, partition, entity.decode(errors="surrogatepass"))
