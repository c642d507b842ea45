"""What the engine may expect of a cache and a feature store: one suite, on the fakes and on real Redis."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from streamer.cache.answers import NearCache, Payoff, RedisCache
from streamer.cache.redis_client import connect
from streamer.features.reading import FIELDS_MAX, NoFeatures, RedisFeatures
from streamer.testing import FakeCache, FakeFeatures, ManualClock
from tests.echo import features_of


def ignore(count: int) -> None:
    """Bad values are another test's."""


def near() -> NearCache:
    return NearCache(ManualClock(), 1000, 60.0)


def redis_cache(url: str, near_cache: NearCache | None = None, secret: bytes = b"s") -> RedisCache:
    client = connect(url, 1000)
    payoff = Payoff(lambda: 1.0)
    return RedisCache(
        client, near_cache or near(), payoff, clock=ManualClock(), secret=secret, ttl_s=60.0, bad_values=ignore
    )


CACHES: dict[str, Callable[[Any], Any]] = {
    "fake": lambda request: FakeCache(),
    "near": lambda request: near(),
    "redis": lambda request: redis_cache(request.getfixturevalue("redis_server").url),
}


@pytest.fixture(params=CACHES)
def cache(request: pytest.FixtureRequest) -> Any:
    made = CACHES[request.param](request)
    yield made
    made.close()


def key() -> bytes:
    return uuid.uuid4().bytes


def test_what_was_never_put_is_a_miss(cache: Any) -> None:
    assert cache.get_many([key(), key()]) == [None, None]


def test_what_was_put_is_found_in_the_order_of_the_keys(cache: Any) -> None:
    a, b, c = key(), key(), key()
    cache.put_many([(a, b'{"x":1}'), (c, b"{}")])
    assert cache.get_many([c, b, a, a]) == [b"{}", None, b'{"x":1}', b'{"x":1}']


def test_the_last_put_wins(cache: Any) -> None:
    a = key()
    cache.put_many([(a, b"1")])
    cache.put_many([(a, b"2")])
    assert cache.get_many([a]) == [b"2"]


def test_no_keys_no_answers(cache: Any) -> None:
    assert cache.get_many([]) == []
    cache.put_many([])


def test_a_healthy_cache_has_a_closed_circuit(cache: Any) -> None:
    cache.get_many([key()])
    assert cache.circuit() == ("closed", 0)


def test_redis_outlives_the_process(redis_server: Any) -> None:
    a = key()
    redis_cache(redis_server.url).put_many([(a, b"1")])
    assert redis_cache(redis_server.url).get_many([a]) == [b"1"]


def test_redis_entries_expire(redis_server: Any) -> None:
    a = key()
    redis_cache(redis_server.url).put_many([(a, b"1")])
    (name,) = redis_server.client().keys(b"*" + a.replace(b"\\", b"\\\\").replace(b"[", b"\\[") + b"*") or [None]
    assert name is None or 0 < redis_server.client().ttl(name) <= 66


STORES: dict[str, Callable[[Any], Any]] = {
    "fake": lambda request: FakeFeatures({"known": {"bonus": 2.5}}),
    "redis": lambda request: filled(request.getfixturevalue("redis_server")),
}


def filled(server: Any, bad_values: Callable[[int], None] = ignore) -> RedisFeatures:
    worker = uuid.uuid4().hex
    client = server.client()
    client.hset(f"streamer:features:{worker}:known", mapping={"bonus": "2.5"})
    client.set(f"streamer:features:{worker}:garbage", "no hash")
    client.hset(f"streamer:features:{worker}:words", mapping={"bonus": "many"})
    client.hset(f"streamer:features:{worker}:endless", mapping={"bonus": "inf"})
    client.hset(f"streamer:features:{worker}:bytes", mapping={b"\xff": "1"})
    client.hset(f"streamer:features:{worker}:long", mapping={"n" * 201: "1"})
    client.hset(f"streamer:features:{worker}:many", mapping={str(number): "1" for number in range(FIELDS_MAX + 1)})
    client.hset(f"streamer:features:{worker}:full", mapping={str(number): "1" for number in range(FIELDS_MAX)})
    return RedisFeatures(connect(server.url, 1000), worker, ManualClock(), bad_values)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param](request)


def test_features_are_numbers_by_name_in_the_order_of_the_keys(store: Any) -> None:
    assert features_of(store, "unknown", "known") == [{}, {"bonus": 2.5}]


def test_what_is_no_hash_of_numbers_is_no_features(store: Any) -> None:
    assert features_of(store, "garbage", "words", "known") == [{}, {}, {"bonus": 2.5}]


def test_what_is_no_features_is_counted(redis_server: Any) -> None:
    counts: list[int] = []
    store = filled(redis_server, counts.append)
    keys = ["garbage", "words", "endless", "bytes", "long", "many"]
    assert features_of(store, *keys, "known", "unknown", "\ud800") == [{}] * 6 + [{"bonus": 2.5}, {}, {}]
    assert counts == [6]
    assert len(features_of(store, "full")[0]) == FIELDS_MAX
    assert counts == [6]


def test_no_store_knows_nothing() -> None:
    assert features_of(NoFeatures(), "a", "b") == [{}, {}]
