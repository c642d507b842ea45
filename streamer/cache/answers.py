"""Answers by content: a near cache in this process, Redis behind it, one round trip a poll.

A cache never decides whether an answer is correct. Whatever is wrong with it (down, slow, full, or holding a value that
we did not write) is a miss.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import cachetools
import msgspec
import redis

from streamer.cache.redis_client import Circuit
from streamer.clock import Clock

TAG_BYTES = 16
FORM = b"\x01"
"""A value is this byte, a tag and the answer. The tag covers this byte too."""
VALUE_BYTES_MAX = 1 << 20
"""No answer is longer, because no Kafka record of ours is. Somebody else put a longer value into Redis."""


class ContentKey:
    """Keyed BLAKE2b of what decides an answer: worker, model digest, answer schema and the features."""

    def __init__(self, secret: bytes, worker: str, model_digest: str, schema: str) -> None:
        self._hash = hashlib.blake2b(
            msgspec.msgpack.encode((worker, model_digest, schema)), key=_key(secret), digest_size=TAG_BYTES
        )

    def of(self, features: Hashable) -> bytes:
        """16 bytes that equal features share; those of another model or worker differ."""
        digest = self._hash.copy()
        digest.update(msgspec.msgpack.encode(features))
        return digest.digest()


class Payoff:
    """Whether looking up pays: hit rate x time of an answer against the time of a look-up.

    While looking up does not pay, only a sample of the keys takes part, enough to notice when it would pay again. The
    sample is chosen by key, so its hit rate is also the hit rate of all keys.
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
    """A near cache over Redis. A value is `FORM`, a keyed checksum over key and answer, and the answer.

    `bad_values` is called with how many values in Redis were not what this deployment put under their key.
    """

    def __init__(
        self,
        client: redis.Redis,
        near: NearCache,
        payoff: Payoff,
        *,
        clock: Clock,
        secret: bytes,
        ttl_s: float,
        bad_values: Callable[[int], None],
    ) -> None:
        self._redis = client
        self._near = near
        self._payoff = payoff
        self._clock = clock
        self._secret = _key(secret)
        self._ttl_s = ttl_s
        self._bad_values = bad_values
        # Two circuits: a full or read-only Redis goes on answering, and is not written to in vain.
        self._reading = Circuit(client, clock, "looking up answers")
        self._writing = Circuit(client, clock, "storing answers")

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        answers = self._near.get_many(keys)
        asked = [at for at, answer in enumerate(answers) if answer is None and self._payoff.takes(keys[at])]
        if not asked:
            return answers
        started = self._clock.now()
        values = self._reading.call(lambda client: self._ask(client, [keys[at] for at in asked]))
        if values is None:
            return answers  # an outage says nothing about what a look-up is worth
        found = []
        bad = 0
        for at, value in zip(asked, values, strict=True):
            if value is None:
                continue
            answers[at] = answer = self._open(keys[at], value)
            if answer is None:
                bad += 1
            else:
                found.append((keys[at], answer))
        if bad:
            self._bad_values(bad)
        self._near.put_many(found)
        self._payoff.observe(len(asked), len(found), self._clock.now() - started)
        return answers

    def put_many(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        self._near.put_many(answers)
        kept = [(key, self._value(key, answer)) for key, answer in answers if self._payoff.takes(key)]
        kept = [(key, value) for key, value in kept if len(value) <= VALUE_BYTES_MAX]
        if kept:
            self._writing.call(lambda client: self._set(client, kept))

    def circuit(self) -> tuple[str, int]:
        states = {self._reading.state, self._writing.state}
        failures = self._reading.failures + self._writing.failures
        return next(state for state in ("open", "half-open", "closed") if state in states), failures

    def close(self) -> None:
        self._redis.close()

    def _ask(self, client: redis.Redis, keys: Sequence[bytes]) -> Sequence[Any]:
        values: list[Any] = client.mget([_name(key) for key in keys])
        if len(values) != len(keys):
            raise redis.InvalidResponse
        return values

    def _set(self, client: redis.Redis, values: Sequence[tuple[bytes, bytes]]) -> bool:
        pipeline = client.pipeline(transaction=False)
        for key, value in values:
            # +-10 %: answers stored together must not expire together
            ttl_ms = int(self._ttl_s * 1000 * random.uniform(0.9, 1.1))  # noqa: S311
            pipeline.set(_name(key), value, px=max(ttl_ms, 1))
        pipeline.execute()
        return True

    def _value(self, key: bytes, answer: bytes) -> bytes:
        return FORM + self._tag(key, answer) + answer

    def _open(self, key: bytes, value: Any) -> bytes | None:
        """The answer, if we put it under this key."""
        if not isinstance(value, bytes) or not len(FORM) + TAG_BYTES < len(value) <= VALUE_BYTES_MAX:
            return None
        if not value.startswith(FORM):
            return None
        answer = value[len(FORM) + TAG_BYTES :]
        tag = value[len(FORM) : len(FORM) + TAG_BYTES]
        return answer if hmac.compare_digest(tag, self._tag(key, answer)) else None

    def _tag(self, key: bytes, answer: bytes) -> bytes:
        # `ContentKey` hashes by the same secret, but its input begins with another byte: neither hash gives the other.
        return hashlib.blake2b(FORM + key + answer, key=self._secret, digest_size=TAG_BYTES).digest()


def _name(key: bytes) -> bytes:
    return b"streamer:answer:" + key


def _key(secret: bytes) -> bytes:
    """The secret as a key of BLAKE2b, which takes 64 bytes at most."""
    return hashlib.blake2b(secret).digest()
