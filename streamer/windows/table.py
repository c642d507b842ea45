"""faust's table, written a block at a time: first to its changelog, then to disk together with how far that goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import faust
import rocksdict


class Table(faust.Table[bytes, bytes]):
    """Bytes by bytes, by partition. What is on disk is never ahead of the changelog, whatever kills the process."""

    def load(self, partition: int, key: bytes) -> bytes | None:
        """What a partition holds under a key."""
        found: bytes | None = self._store_of(partition).get(key)
        return found

    def everything(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a partition."""
        yield from self._rocks._visible_items(self._store_of(partition))

    async def write(self, partition: int, values: Mapping[bytes, bytes]) -> None:
        """Make values durable.

        Raises:
            Exception: the broker did not take all of them; nothing is on disk then.
        """
        topic, producer = self.changelog_topic_name, self.app.producer
        sent = [
            await producer.send(topic, key=key, value=value, partition=partition, timestamp=None, headers=None)
            for key, value in values.items()
        ]
        offset = max([(await one).offset for one in sent])
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in values.items():
            batch.put(key, value)
        batch.put(self._rocks.offset_key, str(offset).encode())
        self._store_of(partition).write(batch)

    @property
    def _rocks(self) -> Any:
        """faust's store; it has no way to write several values and the offset at once."""
        return self.data

    def _store_of(self, partition: int) -> Any:
        return self._rocks._db_for_partition(partition)
