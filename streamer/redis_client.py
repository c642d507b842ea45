"""How Redis is asked: every wait bounded, no call raises, and after three that fail or crawl it is left alone for a
while."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pybreaker
import redis
import structlog
from redis import exceptions

from streamer.clock import Clock
from streamer.errors import BadConfig
from streamer.redis_url import files

log = structlog.get_logger(__name__)

FAILURES_MAX = 3
OPEN_S = 1.0
SLOW_SHARE = 5
"""A circuit stays open for a second, or this often the time that the failure took: time-outs do not bound how long a
name server takes, and so an outage costs at most a sixth of the time."""
VALUE_S = 0.0002
"""What a call may take beyond the time-out for each value that it asks for or stores: twice what packing and parsing
took on a busy machine, so that a large call of ours is not held against Redis."""

T = TypeVar("T")


def connect(url: str, timeout_ms: int) -> redis.Redis:
    """A client whose every wait is bounded by `timeout_ms` and never retried. Does not connect yet.

    It sends nothing but what it is asked to, and AUTH, CLIENT SETNAME and SELECT: deploy/redis.acl grants no more.

    Raises:
        BadConfig: a file that the URL names cannot be read.
    """
    for name, path in files(url):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise BadConfig(f"cache.url: {name} {path} cannot be read ({error.strerror}); name one that can") from None
    timeout_s = timeout_ms / 1000
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, 0.05),
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        protocol=2,
        client_name="streamer",
        driver_info=None,
    )


class _Slow(Exception):
    """An answer, but one that took longer than a call may take."""

    def __init__(self, answer: Any, took_s: float) -> None:
        super().__init__()
        self.answer = answer
        self.took_s = took_s


class Circuit:
    """One kind of call. A failing one is no answer; three in a row open the circuit, then none is made for a second.

    A slow one fails too, as the time-out bounds each wait, not their sum: a line that drips would hold up everything.
    Its answer is used.
    """

    def __init__(self, client: redis.Redis, clock: Clock, kind: str) -> None:
        self._client = client
        self._clock = clock
        self._kind = kind
        self._timeout_s: float = client.get_connection_kwargs()["socket_timeout"]
        self._breaker: Any = pybreaker.CircuitBreaker(
            fail_max=FAILURES_MAX,
            reset_timeout=OPEN_S,
            throw_new_error_on_trip=False,
            state_storage=_SteadyStorage(clock),
        )
        self.failures = 0

    def call(self, ask: Callable[[redis.Redis], T], values: int) -> T | None:
        """What `ask` returns for so many values; None when it fails, or is not even asked because the circuit is
        open."""
        began = self._clock.now()
        was = self.state
        try:
            answer: T = self._breaker.call(self._in_time, ask, values)
        except pybreaker.CircuitBreakerError:
            return None
        except _Slow as slow:  # its reply is read to the end: the connection is good
            self._failed(began)
            took_ms = round(slow.took_s * 1000)
            log.warning(f"redis: {self._kind} is slow", took_ms=took_ms, why="cache.timeout_ms is the longest wait")
            kept: T = slow.answer
            return kept
        except Exception as error:  # a server that speaks no Redis makes the client raise anything
            # A connection with an unread reply must not serve the next question.
            self._client.connection_pool.disconnect()
            self._failed(began)
            log.warning(f"redis: {self._kind} failed; going on without", why=why(error))
            return None
        if was != "closed":
            log.info(f"redis: {self._kind} works again")
        return answer

    def _in_time(self, ask: Callable[[redis.Redis], T], values: int) -> T:
        began = self._clock.now()
        answer = ask(self._client)
        took_s = self._clock.now() - began
        if took_s > self._timeout_s + values * VALUE_S:
            raise _Slow(answer, took_s)
        return answer

    def _failed(self, began: float) -> None:
        self._breaker.reset_timeout = max(OPEN_S, SLOW_SHARE * (self._clock.now() - began))
        self.failures += 1

    @property
    def state(self) -> str:
        """closed, half-open or open."""
        return str(self._breaker.current_state)


class _SteadyStorage(pybreaker.CircuitMemoryStorage):
    """pybreaker asks the wall's clock whether its time is over, and that clock may be set back by an hour."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._clock = clock
        self._opened_s: float | None = None

    @property
    def opened_at(self) -> datetime | None:
        if self._opened_s is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=self._clock.now() - self._opened_s)

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        self._opened_s = self._clock.now()


def why(error: BaseException) -> str:
    """Cause and cure in words of ours: the client's may quote what it sent, and the server's are not ours to trust."""
    match error:
        case exceptions.NoPermissionError():
            return _missing_right(str(error))
        case exceptions.AuthenticationError():
            return "it refuses the user or password in cache.url"
        case exceptions.OutOfMemoryError():
            return "it is full and may not evict; raise maxmemory, or set maxmemory-policy volatile-lru"
        case exceptions.ReadOnlyError():
            return "it is a replica, which cannot be written to; name the primary in cache.url"
        case exceptions.BusyLoadingError():
            return "it is still loading its data"
        case exceptions.TimeoutError() if "connecting" in str(error):
            return "no connection in time; is the host right, and does it speak TLS (rediss://) or not (redis://)?"
        case exceptions.TimeoutError():
            return "no answer in time; cache.timeout_ms is the longest wait"
        case exceptions.ConnectionError():
            return _broken_line(str(error))
        case _:
            return type(error).__name__


def _missing_right(said: str) -> str:
    # Of a pipeline the client first quotes the whole command, value and all.
    found = re.findall(r"'([a-z|]{1,40})' command", said.rpartition("caused error: ")[2])
    if found:
        return f"the user in cache.url lacks the right +{found[-1]}; deploy/redis.acl has all that it needs"
    return "the user in cache.url may not touch keys that begin with streamer:; deploy/redis.acl has all that it needs"


def _broken_line(said: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            "its certificate is not by an authority in ssl_ca_certs, or not for the host in cache.url, or out of date"
        )
    if "SSL" in said or "ssl" in said:
        return "no TLS with it: it speaks plain text, or asks for a certificate of ours (ssl_certfile and ssl_keyfile)"
    return "no connection, or it was cut; is Redis running, and cache.url right?"
