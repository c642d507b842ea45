"""A cached worker on a real Redis: events whose answers are known by heart, and how many came from the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamer.cache.answers import NearCache, Payoff, RedisCache
from streamer.cache.redis_client import connect
from streamer.clock import Clock
from streamer.features.reading import RedisFeatures
from streamer.testing import PAUSE, Answers, Bench, ManualClock, Marker, serve
from tests.echo import CachedEcho, Ping, ping

POLLS, PER_POLL = 10, 20
EVENTS = POLLS * PER_POLL
TIMEOUT_MS = 150
RESET_S = 1.2  # a little more than an open circuit waits before it tries again


class Counted:
    """How many bad values were told of."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


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


def redis_cache(
    url: str,
    secret: bytes = b"secret",
    timeout_ms: int = TIMEOUT_MS,
    bad_values: Callable[[int], None] = lambda count: None,
    clock: Clock | None = None,
) -> RedisCache:
    """A cache that has next to nothing near, so that Redis is asked. Its time stands still unless `clock` goes on."""
    clock = clock or ManualClock()
    near = NearCache(clock, 1, 60)
    client = connect(url, timeout_ms)
    return RedisCache(client, near, Payoff(lambda: 1.0), clock=clock, secret=secret, ttl_s=60, bad_values=bad_values)


def redis_features(url: str, timeout_ms: int = TIMEOUT_MS, clock: Clock | None = None) -> RedisFeatures:
    """The features of the worker `echo`."""
    return RedisFeatures(connect(url, timeout_ms), "echo", clock or ManualClock(), lambda count: None)


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
    numbers = [entry.number for entry in entries if isinstance(entry, Ping)]
    assert [prediction.answer.double for prediction in answers.predictions] == [2.0 * number for number in numbers]
    assert answers.dead_letters == []
    return answers


def hits(answers: Answers) -> int:
    """How many answers came out of the cache."""
    return sum(prediction.cache == "hit" for prediction in answers.predictions)
