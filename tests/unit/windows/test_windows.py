"""What the windows process makes of records, and its copy in Redis, without Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis
from faust.types import TP

from streamer.cache.redis_client import connect
from streamer.errors import BadConfig, Internal, Temporary
from streamer.features.entities import Entities, Kept, decode, encode
from streamer.features.reading import WindowFeatures, entity_key
from streamer.panes import Entity, time_of
from streamer.records import Record
from streamer.testing import ManualClock
from streamer.windows import running
from streamer.windows.blocks import Consumer
from streamer.windows.credentials import credentials
from streamer.windows.keeper import Keeper
from streamer.windows.service import Service, build
from streamer.windows.shelf import CHUNK, Shelf
from streamer.windows.table import Table
from streamer.wire.reading import EventReader
from tests.echo import Counting, Echo, Ping, ping
from tests.slices import row_of

ENTITIES = Entities(Counting.windows)
YEAR = timedelta(days=365)


def keeper() -> Keeper:
    worker = Counting()
    return Keeper(worker, ENTITIES, EventReader(worker.event, 100_000))


def records(*values: bytes | Ping, start: int = 0) -> list[Record]:
    return [
        Record(
            Ping.topic,
            0,
            offset,
            b"one",
            value if isinstance(value, bytes) else value.model_dump_json().encode(),
            None,
            0,
        )
        for offset, value in enumerate(values, start)
    ]


def test_entities_that_change_go_out_once_each() -> None:
    taken = keeper().take(records(ping(1, "a"), ping(2, "b"), ping(3, "a")), lambda key: None)
    assert taken.verdicts == {"taken": 3}
    assert {key: decode(value).offset for key, value in taken.changed.items()} == {b"a": 2, b"b": 1}


def test_a_block_goes_on_from_what_is_kept() -> None:
    table: dict[bytes, bytes] = {}
    for block in (records(ping(1), ping(2)), records(ping(3), start=2)):
        table |= keeper().take(block, table.get).changed
    assert table == keeper().take(records(ping(1), ping(2), ping(3)), lambda key: None).changed


def test_an_event_of_the_future_makes_no_other_too_late() -> None:
    ahead = ping(1).model_copy(update={"occurred_at": ping(1).occurred_at + YEAR})
    found = [msgspec.structs.replace(one, timestamp_ms=time_of(ping(0))) for one in records(ping(0), ahead, ping(7))]
    taken = keeper().take(found, lambda key: None)
    assert taken.verdicts == {"taken": 2, "future": 1}


def test_a_block_that_is_read_again_changes_nothing() -> None:
    block = records(ping(1), ping(2))
    kept = keeper().take(block, lambda key: None).changed
    again = keeper().take(block, kept.get)
    assert again.changed == {}
    assert again.verdicts == {"known": 2}


def test_records_that_are_no_events_and_events_that_the_worker_fails_on_count_for_nothing() -> None:
    bad = [b"no json", b"{}", ping(2, fault="key"), ping(3, fault="window"), ping(4, fault="nobody")]
    taken = keeper().take(records(ping(1), *bad), lambda key: None)
    assert taken.verdicts == {"taken": 1, "unreadable": 4}
    assert list(taken.changed) == [b"one"]


def test_what_is_kept_and_cannot_be_read_is_no_event_that_is_skipped() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of msgspec
        keeper().take(records(ping(1)), lambda key: b"garbage")


class Copy:
    """A shelf of its own, the table behind it, and the Redis in front."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.table: dict[bytes, bytes] = {}
        self.shelf = Shelf(connect(url, 1000), name, "v", ManualClock())
        self.at = -1

    def write(self, **changed: bytes) -> bool:
        self.at += 1
        new = {key.encode(): value for key, value in changed.items()}
        self.table |= new
        return asyncio.run(self.shelf.show(0, self.at, new, lambda: self.table.items()))


@pytest.fixture
def client(redis_server: Any) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def copy(redis_server: Any, request: pytest.FixtureRequest) -> Copy:
    return Copy(redis_server.url, request.node.name)


def shown(client: redis.Redis, copy: Copy, *entities: str) -> Sequence[bytes | None]:
    return client.mget([entity_key(copy.name, "v", 0, entity) for entity in entities])


def test_what_changed_is_shown(copy: Copy, client: redis.Redis) -> None:
    assert copy.write(a=b"1", b=b"1")
    assert copy.write(b=b"2")
    assert shown(client, copy, "a", "b", "c") == [b"1", b"2", None]
    assert copy.shelf.restored == 2, "all that there was at the beginning"


def test_a_redis_that_lost_everything_gets_everything_again(copy: Copy, client: redis.Redis) -> None:
    copy.table |= {f"e{number}".encode(): b"old" for number in range(2 * CHUNK)}
    copy.write(a=b"1")
    client.delete(*client.keys(f"streamer:windows*:{copy.name}.v:*"))
    assert copy.write()
    assert shown(client, copy, "a", "e0", f"e{2 * CHUNK - 1}") == [b"1", b"old", b"old"]


def test_what_a_process_wrote_that_was_thought_dead_is_written_over(
    copy: Copy, client: redis.Redis, redis_server: Any
) -> None:
    stale = Copy(redis_server.url, copy.name)
    stale.write(a=b"stale")
    copy.write(a=b"1")
    copy.write(a=b"2")
    stale.write(a=b"stale")
    stale.write(a=b"stale")
    assert shown(client, copy, "a") == [b"stale"]
    copy.write()
    assert shown(client, copy, "a") == [b"2"]


def test_a_redis_that_is_away_is_made_whole_when_it_is_back(redis_server: Any, client: redis.Redis, copy: Copy) -> None:
    copy.write(a=b"1")
    real = copy.shelf._circuit
    copy.shelf._circuit = Shelf(redis.Redis(port=1), copy.name, "v", ManualClock())._circuit
    assert not copy.write(a=b"2")
    copy.shelf._circuit = real
    assert copy.write(b=b"1")
    assert shown(client, copy, "a", "b") == [b"2", b"1"]


def test_a_worker_without_windows_is_told_what_to_declare() -> None:
    with pytest.raises(BadConfig, match=r"declares no windows; give its class `windows ="):
        running.declared(Echo())


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER"}, "cannot log in by OAUTHBEARER"),
        ({"security.protocol": "ssl", "ssl.keystore.location": "x"}, "cannot use ssl.keystore.location"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/nowhere"}, "No such file"),
    ],
)
def test_what_its_client_cannot_do_is_said(client: dict[str, str], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        credentials(client)


def test_credentials_are_those_of_the_client() -> None:
    assert credentials({}) is None
    plain = credentials({"security.protocol": "SASL_PLAINTEXT", "sasl.username": "u", "sasl.password": "p"})
    assert (plain.protocol.value, plain.mechanism.value, plain.username) == ("SASL_PLAINTEXT", "PLAIN", "u")
    tls = credentials({"security.protocol": "sasl_ssl", "sasl.mechanisms": "SCRAM-SHA-512"})
    assert (tls.protocol.value, tls.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-512")
    assert tls.ssl_context.check_hostname


def test_an_entity_survives_its_bytes() -> None:
    kept = keeper().take(records(ping(1)), lambda key: None).changed[b"one"]
    assert encode(decode(kept)) == kept


class App:
    """As much of faust's app as the consumer's books need."""

    consumer_generation_id = 1


def books() -> Consumer:
    """A consumer that reads nothing."""
    made = object.__new__(Consumer)
    made.app = App()  # type: ignore[assignment]
    made._read, made._done, made._committable = {}, {}, {}
    made._acked, made._acked_index = defaultdict(list), defaultdict(set)  # type: ignore[attr-defined]
    made._to_message = lambda tp, one: SimpleNamespace(tp=tp, offset=one, generation_id=1)  # type: ignore[method-assign,assignment,return-value]
    return made


SOURCE = TP("t", 0)


def test_no_more_is_committed_than_is_done() -> None:
    """faust counts messages: with gaps between them it commits past one that is being worked on (#606)."""
    made = books()
    first, second, _ = (made._block(SOURCE, [last]) for last in (9, 40, 99))
    made._acked[SOURCE] = [9, 40, 99]  # type: ignore[attr-defined]
    made.done(first)
    assert made._new_offset(SOURCE) == 10
    assert made._new_offset(SOURCE) is None
    made.done(second)
    assert made._new_offset(SOURCE) == 41


def test_a_block_that_is_left_out_is_noticed() -> None:
    made = books()
    _, second = (made._block(SOURCE, [last]) for last in (9, 40))
    with pytest.raises(Internal, match="a block that ends before offset 10 was left out"):
        made.done(second)


def test_what_is_read_again_from_the_committed_position_leaves_nothing_out() -> None:
    """faust goes back to what is committed whenever the flow stops, be a block in work or not."""
    made = books()
    first, _ = (made._block(SOURCE, [last]) for last in (9, 40))
    made._read.clear()
    again = made._block(SOURCE, [40])
    made.done(first)
    made.done(again)
    made.done(made._block(SOURCE, [50]))
    assert made._new_offset(SOURCE) == 51


def test_what_was_done_under_another_generation_is_not_committed() -> None:
    made = books()
    block = made._block(SOURCE, [9])
    made.app.consumer_generation_id = 2  # type: ignore[misc]
    made.done(block)
    assert made._new_offset(SOURCE) is None


FORGED = Kept(-1, Entity({3600: {time_of(ping(1)) // 3_600_000: [["no number"]]}}))


@pytest.mark.parametrize("value", [b"garbage", encode(FORGED)])
def test_what_somebody_else_put_into_redis_is_no_features_and_no_dead_letter(
    value: bytes, redis_server: Any, client: redis.Redis
) -> None:
    name, bad = uuid.uuid4().hex, list[int]()
    store = WindowFeatures(connect(redis_server.url, 1000), name, ENTITIES, ManualClock(), bad.append)
    [record] = records(ping(1))
    one = row_of(record, ping(1))
    client.set(entity_key(name, ENTITIES.version, 0, "one"), value)
    assert store.read_many([one], ["one"]) == []
    assert one.columns.features == [{"pings_1h": 1, "pings_7d": 1, "total_1d": 1}]
    assert bad == [1]


def test_a_worker_sees_what_the_process_shows_and_the_event_itself(redis_server: Any, client: redis.Redis) -> None:
    name = uuid.uuid4().hex
    store = WindowFeatures(connect(redis_server.url, 1000), name, ENTITIES, ManualClock(), lambda count: None)
    for key, value in keeper().take(records(ping(1, "a"), ping(2, "b")), lambda key: None).changed.items():
        client.set(entity_key(name, ENTITIES.version, 0, key.decode()), value)
    entities = ["a", "c", "a"]
    asked = [
        row_of(record, ping(number, entity, fault=fault))
        for record, number, entity, fault in zip(
            records(ping(3), ping(4), ping(5), start=2), (3, 4, 5), entities, ("", "", "window"), strict=True
        )
    ]
    [(failed, error)] = store.read_many(asked, entities)
    assert (failed, type(error)) == (asked[2], ZeroDivisionError)
    assert asked[0].columns.features == [{"pings_1h": 2, "pings_7d": 2, "total_1d": 4}]
    assert [one.columns.as_of[0].offset for one in asked[:2]] == [0, -1]
    assert asked[1].columns.features[0]["pings_7d"] == 1


def test_without_redis_the_event_itself_is_known() -> None:
    store = WindowFeatures(redis.Redis(port=1), "w", ENTITIES, ManualClock(), lambda count: None)
    [record] = records(ping(1))
    one = row_of(record, ping(1))
    assert store.read_many([one], ["one"]) == []
    assert one.columns.features[0]["pings_7d"] == 1


@pytest.fixture
def table(tmp_path: Path) -> Table:
    app = build("g", {"bootstrap.servers": "127.0.0.1:1"}, tmp_path, 1)
    app.finalize()
    app._create_directories()
    return Table(app, name="entities", key_type=bytes, value_type=bytes, options={"driver": "rocksdict"})


def change(table: Table, offset: int, key: str, kept: int | Kept) -> Any:
    """A record of the changelog: an entity, such as one that is empty but for the source's record `kept`."""
    value = encode(kept if isinstance(kept, Kept) else Kept(kept))
    tp = TP(table.changelog_topic_name, 0)
    return SimpleNamespace(
        message=SimpleNamespace(tp=tp, partition=0, offset=offset, key=b"e" + key.encode(), value=value)
    )


def test_what_a_process_wrote_that_was_thought_dead_does_not_win_in_a_recovery(table: Table) -> None:
    table.apply_changelog_batch([change(table, 0, "a", 5), change(table, 1, "b", 6), change(table, 2, "a", 3)])
    table.apply_changelog_batch([change(table, 3, "b", 4), change(table, 4, "c", 9)])
    found = {key: decode(value).offset for key, value in table.everything(0)}
    assert found == {b"a": 5, b"b": 6, b"c": 9}
    assert table.persisted_offset(TP(table.changelog_topic_name, 0)) == 4


class Sender:
    """A producer whose records land where the test says."""

    def __init__(self, *offsets: int) -> None:
        self._offsets = list(offsets)

    async def send(self, topic: str, **record: Any) -> Any:
        landed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        landed.set_result(SimpleNamespace(offset=self._offsets.pop(0)))
        return landed


def test_who_is_not_alone_in_the_changelog_starts_again(table: Table) -> None:
    table.app.producer = Sender(0, 1, 3)  # type: ignore[assignment]
    asyncio.run(table.write(0, {b"a": b"1"}))
    asyncio.run(table.write(0, {b"a": b"2"}))
    with pytest.raises(Temporary, match="another process writes"):
        asyncio.run(table.write(0, {b"a": b"3"}))
    assert table.load(0, b"a") == b"2"


def test_an_entity_may_be_called_like_what_faust_keeps(table: Table) -> None:
    table.app.producer = Sender(0, 1)  # type: ignore[assignment]
    asyncio.run(table.write(0, {b"__faust\0offset__": b"1"}))
    assert table.load(0, b"__faust\0offset__") == b"1"
    assert table.persisted_offset(TP(table.changelog_topic_name, 0)) == 0
    assert list(table.everything(0)) == [(b"__faust\0offset__", b"1")]


def test_panes_that_are_over_count_for_nothing_after_a_recovery(table: Table) -> None:
    """faust's own windows do not expire once they were read from their changelog (#385)."""
    kept = Kept()
    for number in range(3):
        ENTITIES.take(kept, ping(number), number)
    table.apply_changelog_batch([change(table, 0, "one", kept)])
    recovered = decode(table.load(0, b"one") or b"")
    later = ping(9).model_copy(update={"occurred_at": ping(0).occurred_at + timedelta(days=30)})
    features, _ = ENTITIES.known(recovered, later, 9)
    assert features == {"pings_1h": 1, "pings_7d": 1, "total_1d": 9}
    newest = time_of(later) // 1000
    assert {(size, number) for size, panes in recovered.entity.panes.items() for number in panes} == {
        (size, newest // size) for size in recovered.entity.panes
    }, "nor is there anything left of them"


def test_a_block_that_fails_is_neither_acknowledged_nor_gone_past() -> None:
    """faust acknowledges what a failed `take` held, and starts an agent again behind it."""
    consumer = SimpleNamespace(done=lambda message: told.append("done"))
    told: list[str] = []

    async def fails(message: Any) -> None:
        raise ValueError("the broker did not take all of it")

    async def events() -> Any:
        for _ in range(2):
            yield SimpleNamespace(message=None, ack=lambda: told.append("ack"))

    async def run() -> BaseException | None:
        service = object.__new__(Service)
        service._one_at_a_time, service._ended = asyncio.Lock(), asyncio.Event()
        service._app = SimpleNamespace(consumer=consumer)  # type: ignore[assignment]
        service._take = fails  # type: ignore[method-assign]
        work = asyncio.create_task(service._work(SimpleNamespace(noack=lambda: SimpleNamespace(events=events))))
        await asyncio.wait_for(service._ended.wait(), 10)
        assert not work.done(), "it waits for the end of the process, and takes no other block"
        work.cancel()
        return service._failure

    assert isinstance(asyncio.run(run()), ValueError)
    assert told == []
