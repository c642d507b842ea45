"""Calls to Redis: all waits are bounded, no call raises, and after three failures Redis is left alone for a while."""

from __future__ import annotations

import re
import time
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

log = structlog.get_logger(__name__)

FAILURES_MAX = 3
OPEN_S = 1.0
SLOW_SHARE = 5
"""A circuit stays open for a second, or for so many times as long as the failed call took. No timeout bounds a name
server, and by this factor an outage costs at most a sixth of the time."""
BYTES_PER_S = 10_000_000
"""A line that is slower than this in the long run uses up its patience, however much arrives at once."""

T = TypeVar("T")


class Patience:
    """A socket that waits for a call no longer than its timeout in all, plus the time that the call's bytes may take.

    The client bounds each wait, not their sum: an answer that drips would hold up everything. Only waiting counts, so
    Redis is not blamed for a large call that this process takes long to pack or read.
    """

    def __init__(self, line: Any, timeout_s: float) -> None:
        self._line = line
        self._timeout_s = timeout_s
        self._left_s = timeout_s
        self._answered = False

    def sendall(self, data: bytes) -> None:
        if self._answered:  # the next call begins
            self._answered, self._left_s = False, self._timeout_s
        self._waiting(self._line.sendall, data, len(data))

    def recv(self, size: int) -> bytes:
        self._answered = True
        if self._line.gettimeout() == 0:  # only to see whether something is there
            return bytes(self._line.recv(size))
        return bytes(self._waiting(self._line.recv, size, 0))

    def _waiting(self, call: Callable[[Any], Any], about: Any, size: int) -> Any:
        if self._left_s <= 0:
            raise TimeoutError("the line drips")
        self._line.settimeout(self._left_s)
        began = time.monotonic()
        got = call(about)
        self._left_s += (size or len(got)) / BYTES_PER_S - (time.monotonic() - began)
        return got

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)


def _patient(kind: type[Any]) -> type[Any]:
    """A connection class of the client, with patience."""

    def connect(self: Any) -> Patience:
        return Patience(kind._connect(self), self.socket_timeout)

    return type(f"Patient{kind.__name__}", (kind,), {"_connect": connect})


def connect(url: str, timeout_ms: int) -> redis.Redis:
    """A client whose calls wait `timeout_ms` at most, and are never repeated. Does not connect yet.

    By itself it sends only AUTH, CLIENT SETNAME and SELECT: deploy/redis.acl grants no more.

    Raises:
        BadConfig: a file that the URL names cannot be read.
    """
    from streamer.settings.redis_url import files  # importing settings takes time; a worker without Redis needs none

    for name, path in files(url):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise BadConfig(f"cache.url: {name} {path} cannot be read ({error.strerror}); name one that can") from None
    timeout_s = timeout_ms / 1000
    client = redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, 0.05),
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        protocol=2,
        client_name="streamer",
        driver_info=None,
    )
    pool = client.connection_pool
    pool.connection_class = _patient(pool.connection_class)
    return client


class Circuit:
    """One kind of call. A failed call gives no answer. Three failures in a row open the circuit: then no call is made
    for a second, or longer by `SLOW_SHARE`."""

    def __init__(self, client: redis.Redis, clock: Clock, kind: str) -> None:
        self._client = client
        self._clock = clock
        self._kind = kind
        self._breaker: Any = pybreaker.CircuitBreaker(
            fail_max=FAILURES_MAX,
            reset_timeout=OPEN_S,
            throw_new_error_on_trip=False,
            state_storage=_SteadyStorage(clock),
        )
        self.failures = 0

    def call(self, ask: Callable[[redis.Redis], T]) -> T | None:
        """What `ask` returns; None when it fails, or is not called because the circuit is open."""
        began = self._clock.now()
        was = self.state
        try:
            answer: T = self._breaker.call(ask, self._client)
        except pybreaker.CircuitBreakerError:
            return None
        except Exception as error:  # a server that speaks no Redis makes the client raise anything
            # A connection with an unread reply must not serve the next question.
            self._client.connection_pool.disconnect()
            self._breaker.reset_timeout = max(OPEN_S, SLOW_SHARE * (self._clock.now() - began))
            self.failures += 1
            log.warning(f"redis: {self._kind} failed; going on without", why=why(error))
            return None
        if was != "closed":
            log.info(f"redis: {self._kind} works again")
        return answer

    @property
    def state(self) -> str:
        """closed, half-open or open."""
        return str(self._breaker.current_state)


class _SteadyStorage(pybreaker.CircuitMemoryStorage):
    """Keeps the time by our clock. pybreaker asks the wall clock, which may be set back by an hour."""

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
    """Cause and cure in our own words: the client's may quote what it sent, and the server's is not to be trusted."""
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
    # For a pipeline the client first quotes the whole command, value and all.
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
