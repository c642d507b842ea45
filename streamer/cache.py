"""Answers by content: a near cache in this process, Redis behind it, one round trip a poll.

A cache never decides an answer's correctness. Whatever is wrong with it (down, slow, full, or holding
something that we did not write) is a miss.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import cachetools
import msgspec
import pybreaker
import redis
import structlog

from streamer.clock import Clock

log = structlog.get_logger(__name__)

TAG_BYTES = 16


class ContentKey:
    """Keyed BLAKE2b of what decides an answer: worker, model digest, answer schema and the features."""

    def __init__(self, secret: bytes, worker: str, model_digest: str, schema: str) -> None:
        self._hash = hashlib.blake2b(
            msgspec.msgpack.encode((worker, model_digest, schema)), key=secret[:64], digest_size=TAG_BYTES
        )

    def of(self, features: Hashable) -> bytes:
        """16 bytes that equal features share; those of another model or worker differ."""
        digest = self._hash.copy()
        digest.update(msgspec.msgpack.encode(features))
        return digest.digest()


class Payoff:
    """Whether looking up pays: hit rate x time of an answer against the time of a look-up.

    While it does not, only a sample of the keys takes part (chosen by key, so that its hit rate is that of
    the whole), enough to notice when it would pay again.
    """

    SAMPLE = 16  # of 256 first bytes
    LOOKUPS_MIN = 2_000

    def __init__(self, saved_s: Callable[[], float]) -> None:
        self._saved_s = saved_s
        self._lookups = 0.0
        self._hits = 0.0
        self._seconds = 0.0

    def observe(self, lookups: int, hits: int, seconds: float) -> None:
        """Learn from one round trip."""
        self._lookups += lookups
        self._hits += hits
        self._seconds += seconds
        if self._lookups > 2 * self.LOOKUPS_MIN:  # forget by halves
            self._lookups, self._hits, self._seconds = self._lookups / 2, self._hits / 2, self._seconds / 2

    def pays(self) -> bool:
        """True until enough look-ups have shown the opposite."""
        if self._lookups < self.LOOKUPS_MIN:
            return True
        return self._hits * self._saved_s() >= self._seconds

    def takes(self, key: bytes) -> bool:
        """Whether this key takes part now."""
        return key[0] < self.SAMPLE or self.pays()


class NearCache:
    """A bounded LRU with a time to live, in this process."""

    def __init__(self, clock: Clock, size_max: int, ttl_s: float) -> None:
        self._answers: cachetools.TTLCache[bytes, bytes] = cachetools.TTLCache(size_max, ttl_s, timer=clock.now)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        answers = self._answers
        return [answers.get(key) for key in keys]

    def put_many(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        self._answers.update(answers)

    def circuit(self) -> tuple[str, int]:
        return "closed", 0

    def close(self) -> None:
        self._answers.clear()


class RedisCache:
    """A near cache over Redis. A value is a keyed checksum over key and answer, then the answer."""

    def __init__(
        self, client: redis.Redis, near: NearCache, payoff: Payoff, *, clock: Clock, secret: bytes, ttl_s: float
    ) -> None:
        self._redis = client
        self._near = near
        self._payoff = payoff
        self._clock = clock
        self._secret = secret[:64]
        self._ttl_s = ttl_s
        # Apart, so that a full or read-only Redis goes on answering without being written to in vain.
        self._reading, self._writing = _breaker(), _breaker()
        self._errors = 0

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        answers = self._near.get_many(keys)
        asked = [at for at, answer in enumerate(answers) if answer is None and self._payoff.takes(keys[at])]
        if not asked:
            return answers
        started = self._clock.now()
        values = self._call(self._reading, lambda: self._redis.mget([self._name(keys[at]) for at in asked]))
        if values is None:
            return answers  # an outage says nothing about what a look-up is worth
        found = []
        for at, value in zip(asked, values, strict=True):
            answers[at] = self._open(keys[at], value)
            if (answer := answers[at]) is not None:
                found.append((keys[at], answer))
        self._near.put_many(found)
        self._payoff.observe(len(asked), len(found), self._clock.now() - started)
        return answers

    def put_many(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        self._near.put_many(answers)
        kept = [(key, answer) for key, answer in answers if self._payoff.takes(key)]
        if kept:
            self._call(self._writing, lambda: self._set(kept))

    def circuit(self) -> tuple[str, int]:
        states = {str(breaker.current_state) for breaker in (self._reading, self._writing)}
        return next(state for state in ("open", "half-open", "closed") if state in states), self._errors

    def close(self) -> None:
        self._redis.close()

    def _set(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for key, answer in answers:
            # +-10 %: answers stored together must not expire together
            ttl_ms = int(self._ttl_s * 1000 * random.uniform(0.9, 1.1))  # noqa: S311
            pipeline.set(self._name(key), self._tag(key, answer) + answer, px=ttl_ms)
        pipeline.execute()

    def _call(self, breaker: Any, call: Callable[[], Any]) -> Any:
        try:
            return breaker.call(call)
        except pybreaker.CircuitBreakerError:
            return None
        except redis.RedisError as error:
            # A connection with an unread reply must not serve the next question.
            self._redis.connection_pool.disconnect()
            self._errors += 1
            log.warning("cache failed; going on without", error=type(error).__name__)
            return None

    def _name(self, key: bytes) -> bytes:
        return b"streamer:answer:" + key

    def _tag(self, key: bytes, answer: bytes) -> bytes:
        return hashlib.blake2b(key + answer, key=self._secret, digest_size=TAG_BYTES).digest()

    def _open(self, key: bytes, value: Any) -> bytes | None:
        if not isinstance(value, bytes) or len(value) <= TAG_BYTES:
            return None
        tag, answer = value[:TAG_BYTES], value[TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(key, answer)):
            self._errors += 1
            return None
        return answer


def _breaker() -> Any:
    """Three failures in a row open it, a second later one call tries again."""
    return pybreaker.CircuitBreaker(fail_max=3, reset_timeout=1, throw_new_error_on_trip=False)


def connect(url: str, timeout_ms: int) -> redis.Redis:
    """A client whose every call is bounded by `timeout_ms` and never retried. Does not connect yet."""
    timeout_s = timeout_ms / 1000
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, 0.05),
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        protocol=2,
        client_name="streamer",
    )
