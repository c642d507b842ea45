"""Row 14 of the fault matrix: a reply that comes after its call has timed out is nobody's answer, ever.

Real Redis behind a proxy of ours that lets every fifth call or so wait for longer than its time-out, the real cache and
feature store, and thousands of calls with mixed keys whose answers are known (the method of redis-py #2665).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import pytest
import redis

from streamer.cache.answers import NearCache, Payoff, RedisCache
from streamer.cache.redis_client import connect
from streamer.clock import SystemClock
from streamer.features.reading import RedisFeatures
from tests.echo import features_of
from tests.faults.proxy import Proxy
from tests.faults.wire import chunk
from tests.services import Redis, unique

pytestmark = pytest.mark.slow

TIMEOUT_MS = 20
LATE_S = 0.1
CALLS = 2_000
KEYS = 500
SEED = 14


class Late:
    """Real clients behind a line that is slow now and then; counts what they say."""

    def __init__(self, server: Redis, proxy: Proxy) -> None:
        self._proxy = proxy
        self._chance = random.Random(SEED)
        self._last = 0
        self.worker = unique("late")
        self.bad = 0
        url = server.url.replace(str(urlsplit(server.url).port), str(proxy.port))
        clock = SystemClock()
        self.cache = RedisCache(
            connect(url, TIMEOUT_MS),
            NearCache(clock, 1, 60),  # next to nothing near, so that Redis is asked
            Payoff(lambda: 1.0),
            clock=clock,
            secret=self.worker.encode(),
            ttl_s=600,
            bad_values=self._count,
        )
        self.features = RedisFeatures(connect(url, TIMEOUT_MS), self.worker, clock, self._count)
        self.answered = self.unanswered = self.wrong_answers = self.wrong_features = 0
        with server.client() as client:
            for number in range(KEYS):
                client.hset(f"streamer:features:{self.worker}:e{number}", mapping={"number": number})
        for number in range(KEYS):
            self.cache.put_many([_entry(number)])

    def ask(self, some: int) -> None:
        """One call of each kind for a few keys, at times through a slow line. Never more than two such calls in a row,
        or the circuit would open and nothing be asked."""
        self._last = 0 if self._last == 2 or self._chance.random() > 0.2 else self._last + 1
        self._proxy.link.latency_s = LATE_S / 2 if self._last else 0.0
        numbers = self._chance.sample(range(KEYS), some)
        answers = self.cache.get_many([_entry(number)[0] for number in numbers])
        self.wrong_answers += self._wrong(answers, [_entry(number)[1] for number in numbers], None)
        features = features_of(self.features, *[f"e{number}" for number in numbers])
        self.wrong_features += self._wrong(features, [{"number": float(number)} for number in numbers], {})
        if self._chance.random() < 0.1:
            self.cache.put_many([_entry(number) for number in numbers])

    def _wrong(self, said: Sequence[object], known: Sequence[object], nothing: object) -> int:
        right = sum(answer == wanted for answer, wanted in zip(said, known, strict=True))
        none = sum(answer == nothing for answer in said)
        self.answered += right
        self.unanswered += none
        return len(said) - right - none

    def _count(self, values: int) -> None:
        self.bad += values


def _entry(number: int) -> tuple[bytes, bytes]:
    return number.to_bytes(16), f"answer {number}".encode()


@pytest.fixture
def late(redis_server: Redis) -> Iterator[Late]:
    port = urlsplit(redis_server.url).port
    assert port is not None
    with Proxy(("127.0.0.1", port), framing=chunk) as proxy:
        yield Late(redis_server, proxy)


def ask_all(late: Late, calls: int) -> None:
    for number in range(calls):
        late.ask(1 + number % 7)


def test_a_late_reply_never_answers_the_next_question(late: Late) -> None:
    """Fault: one call in five is answered after 100 ms, with a time-out of 20 ms. Expected: it counts as no answer, and
    the next call, at once, gets its own. Oracle: every answer is known; values that are not of their key are counted by
    the cache's own checksum too, and there are none."""
    ask_all(late, CALLS)
    print(f"{late.answered} right answers, {late.unanswered} none")
    assert (late.wrong_answers, late.wrong_features, late.bad) == (0, 0, 0)
    assert late.unanswered > CALLS / 10, "some calls have timed out"
    assert late.answered > CALLS, "most have not"


def test_a_connection_that_is_used_again_after_a_time_out_is_noticed(
    late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a connection with an unread reply goes back to the pool, as in redis-py before 4.5.4. Oracle: the same
    counts; and the checksum keeps even this from becoming a wrong answer of the cache."""
    monkeypatch.setattr(redis.connection.ConnectionPool, "disconnect", lambda self, *args, **options: None)
    monkeypatch.setattr(redis.connection.AbstractConnection, "disconnect", lambda self, *args: None)
    deadline = time.monotonic() + 30
    while not (late.wrong_features and late.bad):
        assert time.monotonic() < deadline, "the counts above prove nothing"
        late.ask(3)
    assert late.wrong_answers == 0
