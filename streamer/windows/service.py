"""faust's app around keeper, table and shelf: what happens to a block, and what to a partition that comes or goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.exceptions import ConsistencyError, ProducerSendError
from faust.types import TP

from streamer.errors import BadData, Exit, Internal, Temporary
from streamer.features.entities import TABLE
from streamer.process.garbage import QuietCollector
from streamer.records import Record
from streamer.telemetry.health import Health
from streamer.telemetry.metrics import WindowMetrics
from streamer.windows.blocks import Schema, Transport
from streamer.windows.credentials import credentials
from streamer.windows.keeper import Keeper
from streamer.windows.shelf import Shelf
from streamer.windows.table import Table

log = structlog.get_logger(__name__)

BLOCK_MAX = 2_000
"""Records of one poll. A rebalance waits for as long as a block takes."""
LOOK_S = 1.0
"""How often the service checks that Redis still has what was written, where no records come."""
COMMIT_S = 1.0
LINGER_S = 0.005
SESSION_MS = 6_000
"""After such a silence of a process its partitions are given to others."""


class App(faust.App):
    """faust's app, with blocks as messages."""

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)


def build(group: str, client: Mapping[str, str], folder: Path, partitions: int) -> App:
    """faust's app. `client` has settings under librdkafka's names, `folder` the tables. The app makes no topics, opens
    no port and starts no leader.

    Raises:
        BadConfig: `client` asks for something that faust's client cannot do.
    """
    session_s = int(client.get("session.timeout.ms", SESSION_MS)) / 1000
    return App(
        group,
        broker=";".join(f"kafka://{one.strip()}" for one in client["bootstrap.servers"].split(",")),
        broker_credentials=credentials(client),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        broker_max_poll_records=BLOCK_MAX,
        broker_commit_interval=COMMIT_S,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        producer_linger=LINGER_S,
        store="rocksdb://",
        datadir=str(folder),
        topic_partitions=partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        key_serializer="raw",
        value_serializer="raw",
        stream_buffer_maxsize=2,
        web_enabled=False,
    )


class Service:
    """Runs until it is stopped, or until something fails that must not be passed over."""

    def __init__(
        self,
        app: App,
        topic: str,
        keeper: Keeper,
        shelf: Shelf,
        metrics: WindowMetrics,
        health: Health,
        drain_s: float,
    ) -> None:
        self._garbage = QuietCollector()
        self._app = app
        self._topic = topic
        self._keeper = keeper
        self._shelf = shelf
        self._metrics = metrics
        self._health = health
        self._drain_s = drain_s
        self._table = Table(app, name=TABLE, key_type=bytes, value_type=bytes, options={"driver": "rocksdict"})
        app.tables.add(self._table)
        self._at: dict[int, int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        app.agent(app.topic(topic, schema=Schema()), name="windows")(self._work)
        revoked: Any = app.on_partitions_revoked
        revoked.connect(self._revoked)

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            Exit: it cannot go on, and the process has to end at once: threads of faust may still run, and faust itself
                may wait for what failed. What was not committed is read again.
        """
        await self._app.start()
        self._garbage.start()
        looking = asyncio.create_task(self._look())
        looking.add_done_callback(lambda task: None if task.cancelled() else self._fail(task.exception()))
        await self._ended.wait()
        looking.cancel()
        self._health.left()
        failure = self._failure or self._app.crash_reason
        if isinstance(failure, Exit):
            raise failure
        if isinstance(failure, ConsistencyError):
            raise BadData(
                f"windows: the tables in {self._app.conf.datadir} are ahead of their changelog topic. If the topic was "
                "made anew, delete that folder; if the broker has lost records, the tables hold what it lost"
            )
        if isinstance(failure, KafkaError | ProducerSendError):
            raise Temporary(
                f"windows: the broker is away, or refuses: {type(failure).__name__}; start streamer windows again"
            ) from None
        if failure is not None:
            raise Internal(f"windows: unexpected {type(failure).__name__}; its stack is in the log")
        try:
            await asyncio.wait_for(self._app.stop(), self._drain_s)
        except TimeoutError:
            raise Temporary(f"windows: not done within drain_s ({self._drain_s:g} s); the rest is read again") from None

    def stop(self) -> None:
        """Let `run` end."""
        self._ended.set()

    def _fail(self, error: BaseException | None) -> None:
        log.error("the windows stop", exc_info=error)
        self._failure = error
        self._ended.set()

    async def _work(self, stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                async with self._one_at_a_time:
                    await self._take(event.message)
                consumer: Any = self._app.consumer
                consumer.done(event.message)
            except Exception as error:
                # faust would start this again with the next block, and commit past this one.
                self._fail(error)
                await asyncio.Event().wait()
            event.ack()

    async def _take(self, message: Any) -> None:
        partition = message.partition
        records = [_record(one) for one in message.value]
        taken = self._keeper.take(records, lambda key: self._table.load(partition, key))
        if taken.changed:
            await self._table.write(partition, taken.changed)
        self._at[partition] = message.offset
        self._metrics.records(taken.verdicts)
        await self._show(partition, taken.changed)

    async def _show(self, partition: int, changed: dict[bytes, bytes]) -> None:
        restored = self._shelf.restored
        at = self._at.get(partition, -1)
        await self._shelf.show(partition, at, changed, lambda: self._table.everything(partition))
        self._metrics.restored(self._shelf.restored - restored)

    async def _look(self) -> None:
        """Report that the loop turns and how far it is behind, and check that Redis has what it should."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._health.beat()
            if self._app.crashed:
                self._ended.set()
            if self._app.rebalancing or not self._app.tables.actives_ready:
                continue
            self._health.assigned()
            mine = [tp for tp in self._app.consumer.assignment() if tp.topic == self._topic]
            behind = sum(self._behind(tp) for tp in mine)
            self._metrics.lag(behind)
            self._garbage.collect(time.monotonic(), behind)
            for tp in mine:
                async with self._one_at_a_time:
                    await self._show(tp.partition, {})

    def _behind(self, tp: TP) -> int:
        at = self._at.get(tp.partition)
        return 0 if at is None else max(0, int(self._app.consumer.highwater(tp) or 0) - at - 1)

    async def _revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        gone = [tp.partition for tp in revoked if tp.topic == self._topic]
        self._shelf.forget(gone)
        for partition in gone:
            self._at.pop(partition, None)


def _record(one: Any) -> Record:
    return Record(one.topic, one.partition, one.offset, one.key, one.value, list(one.headers) or None, one.timestamp)
