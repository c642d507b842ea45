"""Whatever happens to Redis, answers stay right and nothing is raised; it costs speed, and not for long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from structlog.testing import capture_logs

from streamer.cache.answers import RedisCache
from streamer.clock import SystemClock
from streamer.testing import Bench, ManualClock, serve
from tests.echo import CachedEcho, features_of, ping
from tests.faults.proxy import Proxy
from tests.faults.wire import chunk
from tests.integration.cached_runs import (
    EVENTS,
    PER_POLL,
    RESET_S,
    TIMEOUT_MS,
    Counted,
    Meddled,
    hits,
    redis_cache,
    redis_features,
    run,
    script,
)
from tests.services import Redis, start_redis

Step = Callable[[Redis], None]

LOADED_KEYS = 2500
LOADS_SLOWLY = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
"""A millisecond a key, for which a server that starts empty has no use."""


def fill_up(server: Redis) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)


def make_room(server: Redis) -> None:
    with server.client() as client:
        client.config_set("maxmemory", 0)


def make_read_only(server: Redis) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")


def make_writable(server: Redis) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")


def lock(server: Redis) -> None:
    with server.client() as client:
        client.config_set("requirepass", "changed")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def unlock(server: Redis) -> None:
    with redis.Redis.from_url(server.url, password="changed", protocol=2) as client:
        client.config_set("requirepass", "")


def load(server: Redis) -> None:
    """Come back with so much data that it takes seconds to read, and answer nobody meanwhile."""
    with server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(LOADED_KEYS):
            pipeline.set(f"other:{number}", "x")
        pipeline.execute()
        client.save()
    server.kill()
    server.process.start()


def loaded(server: Redis) -> None:
    server.wait_until_ready()
    with server.client() as client:
        (Path(client.config_get("dir")["dir"]) / "dump.rdb").unlink()
        client.flushall()


FAULTS: dict[str, tuple[Step, Step]] = {
    "killed": (Redis.kill, Redis.start),
    "frozen": (Redis.pause, Redis.resume),
    "full": (fill_up, make_room),
    "read-only": (make_read_only, make_writable),
    "locked": (lock, unlock),
    "loading": (load, loaded),
}
WRITES_ONLY = ("full", "read-only")
"""They go on answering; reads and writes have a circuit each."""


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    """A server of this file's own, to be broken and mended."""
    with start_redis(*LOADS_SLOWLY) as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: Redis) -> None:
    with server.client() as client:
        client.flushall()


def test_a_healthy_redis_answers(server: Redis) -> None:
    run(redis_cache(server.url))
    cache = redis_cache(server.url)
    assert hits(run(cache)) == EVENTS, "or the tests below would prove nothing"
    assert cache.circuit() == ("closed", 0)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at_poll", [0, 3])
def test_answers_stay_right_and_the_circuit_opens_and_closes(server: Redis, fault: str, at_poll: int) -> None:
    hurt, heal = FAULTS[fault]
    clock = ManualClock()
    cache = redis_cache(server.url, clock=clock)
    try:
        run(Meddled(cache, lambda poll: hurt(server) if poll == at_poll else None))
        state, errors = cache.circuit()
        assert state == "open"
        assert errors == 3 * (1 if fault in WRITES_ONLY else 2), "three failures a circuit, then none is asked for more"
        began = time.perf_counter()
        for _ in range(100):
            cache.put_many([(b"\x00" * 16, b"1")])
        assert time.perf_counter() - began < TIMEOUT_MS / 1000, "a hundred polls cost less than one time-out"
    finally:
        heal(server)
    clock.sleep(RESET_S)
    run(cache)
    assert cache.circuit() == ("closed", errors)
    assert hits(run(redis_cache(server.url))) == EVENTS


@pytest.mark.parametrize("fault", WRITES_ONLY)
def test_a_redis_that_only_refuses_to_write_still_answers(server: Redis, fault: str) -> None:
    hurt, heal = FAULTS[fault]
    run(redis_cache(server.url))
    hurt(server)
    try:
        cache = redis_cache(server.url)
        for number in range(5):
            cache.put_many([(bytes([number]) * 16, b"1")])
        assert cache.circuit() == ("open", 3)
        assert hits(run(cache)) == EVENTS
    finally:
        heal(server)


@pytest.mark.parametrize("fault", ["killed", "frozen", "locked", "loading"])
def test_features_are_gone_quietly_and_come_back(server: Redis, fault: str) -> None:
    hurt, heal = FAULTS[fault]
    with server.client() as client:
        client.hset("streamer:features:echo:known", mapping={"bonus": "1"})
    clock = ManualClock()
    store = redis_features(server.url, clock=clock)
    hurt(server)
    try:
        with capture_logs() as logs:
            assert [features_of(store, "known") for _ in range(20)] == [[{}]] * 20
        assert len(logs) == 3, "an open circuit is not asked, and says nothing"
    finally:
        heal(server)
    clock.sleep(RESET_S)
    with server.client() as client:
        client.hset("streamer:features:echo:known", mapping={"bonus": "1"})
    assert features_of(store, "known") == [{"bonus": 1.0}]


def test_one_that_answers_too_late_never_answers_another_question(server: Redis) -> None:
    def stall(poll: int) -> None:
        with server.client() as client:
            client.execute_command("CLIENT", "PAUSE", 2 * TIMEOUT_MS, "ALL")

    run(redis_cache(server.url))
    cache = redis_cache(server.url)
    for _ in range(3):
        run(Meddled(cache, stall), script()[: PER_POLL + 1])
        time.sleep(3 * TIMEOUT_MS / 1000)
        run(cache, script()[PER_POLL + 1 :])
    assert cache.circuit()[1] > 0


def test_one_that_evicts_only_misses(server: Redis) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
        try:
            entries = [ping(number) for number in range(3000)]
            cache = redis_cache(server.url)
            run(cache, entries)
            run(cache, entries)
            assert client.info("stats")["evicted_keys"] > 0
            assert cache.circuit() == ("closed", 0)
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")


GARBAGE: dict[str, Callable[[bytes, bytes], bytes | dict[str, str]]] = {
    "wrong type": lambda value, other: {"double": "99"},
    "empty": lambda value, other: b"",
    "truncated": lambda value, other: value[:-1],
    "only a tag": lambda value, other: value[:17],
    "bit flip": lambda value, other: value[:-3] + bytes([value[-3] ^ 1]) + value[-2:],
    "flipped tag": lambda value, other: value[:1] + bytes([value[1] ^ 1]) + value[2:],
    "another form": lambda value, other: b"\x02" + value[1:],
    "another's value": lambda value, other: other,
    "no checksum": lambda value, other: b'{"double": 99.0}',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_under_our_keys_is_a_miss_and_counted_and_mended(server: Redis, garbage: str) -> None:
    run(redis_cache(server.url))
    with server.client() as client:
        names = sorted(client.keys(b"streamer:answer:*"))
        values = [client.get(name) for name in names]
        for number, name in enumerate(names):
            bad = GARBAGE[garbage](values[number], values[number - 1])
            client.delete(name)
            if isinstance(bad, bytes):
                client.set(name, bad)
            else:
                client.hset(name, mapping=bad)

    assert len(names) == EVENTS
    counted = Counted()
    cache = redis_cache(server.url, bad_values=counted, timeout_ms=1000)
    assert hits(run(cache)) == 0
    # Of another type MGET says that it is not there.
    assert counted.count == (0 if garbage == "wrong type" else EVENTS)
    assert cache.circuit() == ("closed", 0)
    assert hits(run(redis_cache(server.url, bad_values=counted))) == EVENTS
    assert counted.count == (0 if garbage == "wrong type" else EVENTS)


def test_what_another_deployment_wrote_is_a_miss(server: Redis) -> None:
    run(redis_cache(server.url, secret=b"theirs"))
    counted = Counted()
    assert hits(run(redis_cache(server.url, secret=b"ours", bad_values=counted))) == 0
    assert counted.count == EVENTS


def test_one_that_forgets_everything_only_misses(server: Redis) -> None:
    run(redis_cache(server.url))

    def flush(poll: int) -> None:
        with server.client() as client:
            client.flushall()

    cache = redis_cache(server.url)
    assert hits(run(Meddled(cache, flush))) == 0
    assert cache.circuit() == ("closed", 0)


STAMPEDE = 10_000


@pytest.mark.parametrize("fault", [None, "frozen"])
def test_ten_thousand_equal_events_are_computed_once(server: Redis, fault: str | None) -> None:
    hurt, heal = FAULTS[fault] if fault else (lambda server: None, lambda server: None)
    worker = CachedEcho()
    hurt(server)
    try:
        answers = serve(worker, [ping(7)] * STAMPEDE, Bench(cache=redis_cache(server.url)))
    finally:
        heal(server)
    assert [prediction.answer.double for prediction in answers.predictions] == [14.0] * STAMPEDE
    assert worker.runs == [[7]]


OPENS_S, CLOSES_S, OUTAGE_S, EVERY_S = 1.0, 5.0, 2.0, 0.005
ADDED_SHARE_MAX = 0.2
"""Of an outage's time; three time-outs of 20 ms, then one a second, are 5 %."""


@pytest.mark.parametrize("fault", ["killed", "frozen", "locked", "loading", "slow"])
def test_an_outage_costs_little_and_not_for_long(server: Redis, fault: str) -> None:
    """By the default time-out: the circuit opens within a second, and closes within five of the mend."""
    place = server.url.removeprefix("redis://").partition("/")[0].split(":")
    with Proxy((place[0], int(place[1])), framing=chunk) as proxy:
        slowed = (lambda server: setattr(proxy.link, "latency_s", 0.5), lambda server: proxy.heal())
        hurt, heal = slowed if fault == "slow" else FAULTS[fault]
        url = f"redis://{proxy.address}/0" if fault == "slow" else server.url
        cache = redis_cache(url, timeout_ms=20, clock=SystemClock())
        key = b"\x00" * 16
        ask_anew(cache)
        assert cache.circuit() == ("closed", 0)
        hurt(server)
        try:
            hurt_at = time.monotonic()
            assert until(lambda: ask_anew(cache) > 0 and cache.circuit()[0] == "open", OPENS_S) < OPENS_S
            spent = asked = 0.0
            while time.monotonic() - hurt_at < OUTAGE_S:
                took = ask_anew(cache)
                spent, asked = spent + took, asked + 1
                time.sleep(EVERY_S)
            assert cache.circuit()[0] == "open"
            assert asked > OUTAGE_S / EVERY_S / 4
            assert spent < ADDED_SHARE_MAX * OUTAGE_S
        finally:
            heal(server)
        assert until(lambda: ask_anew(cache) > 0 and cache.circuit()[0] == "closed", CLOSES_S) < CLOSES_S
        cache.put_many([(key, b"1")])
        assert redis_cache(server.url).get_many([key]) == [b"1"]


def ask_anew(cache: RedisCache) -> float:
    """Seconds that it takes to look up and store an answer that nobody knows."""
    began = time.perf_counter()
    key = uuid4().bytes
    assert cache.get_many([key]) == [None]
    return time.perf_counter() - began


def until(done: Callable[[], bool], seconds: float) -> float:
    """Seconds until `done`, looked at often, or `seconds`."""
    began = time.monotonic()
    while not done() and time.monotonic() - began < seconds:
        time.sleep(EVERY_S)
    return time.monotonic() - began


NO_REDIS = [
    b":abc\r\n",
    b"$abc\r\n",
    b"$-5\r\n",
    b"$99999999999\r\nx",
    b"*99999999999\r\n",
    b"*-7\r\n",
    b"\xff\xfe\x00\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"+OK\r\n+OK\r\n+OK\r\n",
    b"+OK\r\n*1\r\n$1\r\nx\r\n",
    b"+OK\r\n*3\r\n:1\r\n*1\r\n$1\r\nx\r\n-ERR\r\n",
    b"+OK\r\n$5\r\nx",
    b"\r\n",
]


@pytest.mark.parametrize("reply", NO_REDIS)
def test_what_is_no_redis_at_all_does_no_harm(reply: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(reply)
                connection.settimeout(1)
                try:
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        cache = redis_cache(url, timeout_ms=30)
        assert hits(run(cache)) == 0
        assert cache.circuit()[0] == "open"
        assert features_of(redis_features(url, timeout_ms=30), "a", "b") == [{}, {}]
        cache.close()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
