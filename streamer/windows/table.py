"""faust's table, written a block at a time: first to its changelog, then to disk with how far the changelog goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import faust
import rocksdict
from faust.types import TP

from streamer.errors import Temporary
from streamer.features.entities import offset_of

MINE = b"e"
"""The prefix of every key: an entity may have any name, and faust has a key of its own."""


class Table(faust.Table[bytes, bytes]):
    """Entities by key, by partition. What is on disk is never ahead of the changelog, whatever kills the process."""

    def load(self, partition: int, key: bytes) -> bytes | None:
        """What a partition holds under a key."""
        found: bytes | None = self._store_of(partition).get(MINE + key)
        return found

    def everything(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a partition."""
        for key, value in self._rocks._visible_items(self._store_of(partition)):
            yield key.removeprefix(MINE), value

    async def write(self, partition: int, values: Mapping[bytes, bytes]) -> None:
        """Make values durable.

        Raises:
            Temporary: another process writes here, so this one has lost its partitions.
            Exception: the broker did not take all of them. Nothing is on disk then.
        """
        topic, producer = self.changelog_topic_name, self.app.producer
        sent = [
            await producer.send(topic, key=MINE + key, value=value, partition=partition, timestamp=None, headers=None)
            for key, value in values.items()
        ]
        offsets = [(await one).offset for one in sent]
        before = self.data.persisted_offset(TP(topic, partition))
        if before is not None and min(offsets) != before + 1:
            raise Temporary(f"windows: another process writes {topic}/{partition}; start again, to read what it wrote")
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in values.items():
            batch.put(MINE + key, value)
        batch.put(self._rocks.offset_key, str(max(offsets)).encode())
        self._store_of(partition).write(batch)

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Recover. A process that was thought dead may have written after its successor. So the state with the newer
        offset in it wins, not the later record."""
        newest: dict[tuple[int, bytes], int] = {}
        ends: dict[TP, int] = {}
        wins = []
        for event in batch:
            message = event.message
            place = message.partition, message.key
            ends[message.tp] = message.offset
            if place not in newest:
                stored = self._store_of(message.partition).get(message.key)
                newest[place] = offset_of(stored) if stored is not None else -1
            if (offset := offset_of(message.value)) >= newest[place]:
                newest[place] = offset
                wins.append(event)
        super().apply_changelog_batch(wins)
        for tp, end in ends.items():
            self.data.set_persisted_offset(tp, end)

    @property
    def _rocks(self) -> Any:
        """faust's store; it has no way to write several values and the offset at once."""
        return self.data

    def _store_of(self, partition: int) -> Any:
        return self._rocks._db_for_partition(partition)
