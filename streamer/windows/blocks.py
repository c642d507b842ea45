"""faust's consumer. It makes one message, a block, of all records of a partition that one poll brings.

faust takes 100 to 150 us of CPU for a message; the records of a block share them. The consumer commits only blocks
that it was told are done, because nothing else may be committed: faust's own count goes past messages that are still
being worked on (faust-streaming/faust #606), and counts messages that it skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import faust
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streamer.errors import Internal

REST_S = 0.1


class Block(list[Any]):
    """Records of a partition in a row. `after` is the offset up to which the partition had been read before. It is None
    where reading began, which is at the committed offset."""

    after: int | None = None


class Consumer(driver.Consumer):
    """Yields blocks; changelogs come record by record, as faust's recovery wants them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read: dict[TP, int] = {}
        self._done: dict[TP, int] = {}
        self._committable: dict[TP, int] = {}

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if not self.flow_active:  # what was read is dropped, and must be read again
            await self.perform_seek()
            return
        for tp, found in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                if self._is_changelog_tp(tp):
                    for record in found:
                        yield tp, self._to_message(tp, record)
                else:
                    yield tp, self._block(tp, found)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        """While partitions move, only changelogs are read. When recovery ends, faust reads on before it has gone back
        to the committed offsets, and then throws away what it read: for good, if the partition has no commit."""
        if self.app.rebalancing and active_partitions is not None:
            active_partitions = {tp for tp in active_partitions if self._is_changelog_tp(tp)}
            if not active_partitions:  # asked for no partition, the client would give any
                await self.sleep(REST_S)
                return {}
        return await super()._getmany(active_partitions, timeout)

    def _block(self, tp: TP, records: Sequence[Any]) -> ConsumerMessage:
        message = self._to_message(tp, records[-1])
        block: Any = Block(records)
        block.after = self._read.get(tp)
        self._read[tp] = message.offset + 1
        message.value = block
        return message

    def done(self, message: ConsumerMessage) -> None:
        """A block is durable in the changelog: its partition may be committed up to the block's end.

        Raises:
            Internal: a block before it was left out.
        """
        if message.generation_id != self.app.consumer_generation_id:
            return  # the partition was ours then, and its owner now reads the block again
        block: Any = message.value
        if block.after is not None and block.after > self._done.get(message.tp, -1):
            raise Internal(f"windows: a block that ends before offset {block.after} was left out")
        self._done[message.tp] = self._committable[message.tp] = message.offset + 1

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            for known in (self._read, self._done, self._committable):
                known.pop(tp, None)

    async def perform_seek(self) -> None:
        """Read all partitions again from their committed offsets."""
        self._read.clear()
        await super().perform_seek()

    def _new_offset(self, tp: TP) -> int | None:
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self._committable.pop(tp, None)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing to add: what lies between two blocks was no record."""


class Transport(driver.Transport):
    """aiokafka, with blocks."""

    Consumer = Consumer


class Schema(faust.Schema[Any, Any]):
    """A block is handed on as it is."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return None

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return message.value
