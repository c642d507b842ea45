"""Whatever happens to Redis, answers stay right and nothing is raised; it costs speed, and not for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
from structlog.testing import capture_logs

from streamer.cache import NearCache, Payoff, RedisCache, connect
from streamer.features import RedisFeatures
from streamer.testing import PAUSE, Answers, Bench, ManualClock, Marker, serve
from tests.echo import CachedEcho, Ping, ping
from tests.services import Redis, start_redis

POLLS, PER_POLL = 10, 20
TIMEOUT_MS = 150
RESET_S = 1.2  # a little more than an open circuit waits before it tries again

Step = Callable[[Redis], None]


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


FAULTS: dict[str, tuple[Step, Step]] = {
    "killed": (Redis.kill, Redis.start),
    "frozen": (Redis.pause, Redis.resume),
    "full": (fill_up, make_room),
    "read-only": (make_read_only, make_writable),
    "locked": (lock, unlock),
}
WRITES_ONLY = ("full", "read-only")
"""They go on answering; reads and writes have a circuit each."""


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    """A server of this file's own, to be broken and mended."""
    with start_redis() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: Redis) -> None:
    with server.client() as client:
        client.flushall()


class Meddled:
    """A cache that does something else too, each time before it is asked."""

    def __init__(self, cache: RedisCache, meddle: Callable[[int], None]) -> None:
        self._cache = cache
        self._meddle = meddle
        self._asked = 0
        self.put_many, self.circuit, self.close = cache.put_many, cache.circuit, cache.close

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if keys:
            self._meddle(self._asked)
            self._asked += 1
        return self._cache.get_many(keys)


def redis_cache(server: Redis, secret: bytes = b"secret") -> RedisCache:
    """A cache that has next to nothing near, so that Redis is asked."""
    clock = ManualClock()
    near = NearCache(clock, 1, 60)
    client = connect(server.url, TIMEOUT_MS)
    return RedisCache(client, near, Payoff(lambda: 1.0), clock=clock, secret=secret, ttl_s=60)


def script() -> list[Ping | Marker]:
    """Every number twice, the second time some polls later, and time passes after every poll."""
    entries: list[Ping | Marker] = []
    for poll in range(POLLS):
        first = (poll // 2 if poll % 2 else poll // 2 + POLLS) * PER_POLL
        entries += [ping(number) for number in range(first, first + PER_POLL)]
        entries.append(PAUSE)
    return entries


def run(cache: RedisCache | Meddled, entries: Sequence[Ping | Marker] | None = None) -> Answers:
    """Serve a script; every answer must be right."""
    entries = entries or script()
    answers = serve(CachedEcho(), entries, Bench(cache=cache))
    numbers = [entry.number for entry in entries if entry is not PAUSE]
    assert [prediction.answer.double for prediction in answers.predictions] == [2.0 * number for number in numbers]
    assert answers.dead_letters == []
    return answers


def hits(answers: Answers) -> int:
    return sum(prediction.cache == "hit" for prediction in answers.predictions)


def test_a_healthy_redis_answers(server: Redis) -> None:
    run(redis_cache(server))
    cache = redis_cache(server)
    assert hits(run(cache)) == POLLS * PER_POLL, "or the tests below would prove nothing"
    assert cache.circuit() == ("closed", 0)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at_poll", [0, 3])
def test_answers_stay_right_and_the_circuit_opens_and_closes(server: Redis, fault: str, at_poll: int) -> None:
    hurt, heal = FAULTS[fault]
    cache = redis_cache(server)
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
    time.sleep(RESET_S)
    run(cache)
    assert cache.circuit() == ("closed", errors)
    assert hits(run(redis_cache(server))) == POLLS * PER_POLL


@pytest.mark.parametrize("fault", WRITES_ONLY)
def test_a_redis_that_only_refuses_to_write_still_answers(server: Redis, fault: str) -> None:
    hurt, heal = FAULTS[fault]
    run(redis_cache(server))
    hurt(server)
    try:
        cache = redis_cache(server)
        for number in range(5):
            cache.put_many([(bytes([number]) * 16, b"1")])
        assert cache.circuit() == ("open", 3)
        assert hits(run(cache)) == POLLS * PER_POLL
    finally:
        heal(server)


@pytest.mark.parametrize("fault", ["killed", "frozen", "locked"])
def test_features_are_gone_quietly_and_come_back(server: Redis, fault: str) -> None:
    hurt, heal = FAULTS[fault]
    with server.client() as client:
        client.hset("streamer:features:echo:known", mapping={"bonus": "1"})
    store = RedisFeatures(connect(server.url, TIMEOUT_MS), "echo")
    hurt(server)
    try:
        with capture_logs() as logs:
            assert [store.read_many(["known"]) for _ in range(20)] == [[{}]] * 20
        assert len(logs) == 3, "an open circuit is not asked, and says nothing"
    finally:
        heal(server)
    time.sleep(RESET_S)
    with server.client() as client:
        client.hset("streamer:features:echo:known", mapping={"bonus": "1"})
    assert store.read_many(["known"]) == [{"bonus": 1.0}]


def test_one_that_answers_too_late_never_answers_another_question(server: Redis) -> None:
    def stall(poll: int) -> None:
        with server.client() as client:
            client.execute_command("CLIENT", "PAUSE", 2 * TIMEOUT_MS, "ALL")

    run(redis_cache(server))
    cache = redis_cache(server)
    for _ in range(3):
        with_a_stall = [*script()[: PER_POLL + 1]]
        run(Meddled(cache, stall), with_a_stall)
        time.sleep(3 * TIMEOUT_MS / 1000)
        run(cache, script()[PER_POLL + 1 :])
    assert cache.circuit()[1] > 0


def test_one_that_evicts_only_misses(server: Redis) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
        try:
            entries = [ping(number) for number in range(3000)]
            cache = redis_cache(server)
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
    "only a tag": lambda value, other: value[:16],
    "bit flip": lambda value, other: value[:-3] + bytes([value[-3] ^ 1]) + value[-2:],
    "flipped tag": lambda value, other: bytes([value[0] ^ 1]) + value[1:],
    "another's value": lambda value, other: other,
    "no checksum": lambda value, other: b'{"double": 99.0}',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_under_our_keys_is_a_miss_and_is_mended(server: Redis, garbage: str) -> None:
    run(redis_cache(server))
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

    assert len(names) == POLLS * PER_POLL
    assert hits(run(redis_cache(server))) == 0
    assert hits(run(redis_cache(server))) == POLLS * PER_POLL


def test_what_another_deployment_wrote_is_a_miss(server: Redis) -> None:
    run(redis_cache(server, secret=b"theirs"))
    assert hits(run(redis_cache(server, secret=b"ours"))) == 0
