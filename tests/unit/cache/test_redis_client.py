"""A call to Redis never raises, never waits long, and never tells a secret."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pybreaker
import pytest
from redis import exceptions
from structlog.testing import capture_logs

from streamer.cache import redis_client
from streamer.cache.redis_client import OPEN_S, Circuit, Patience, connect, why
from streamer.errors import BadConfig
from streamer.testing import ManualClock

TIMEOUT_S = 0.02


class Client:
    """What a circuit needs of a client."""

    def __init__(self) -> None:
        self.disconnects = 0
        self.connection_pool = self

    def disconnect(self) -> None:
        self.disconnects += 1


class Stand:
    """A circuit, its clock, and a call that does as it is told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.client = Client()
        self.circuit = Circuit(cast("Any", self.client), self.clock, "asking")
        self.asked = 0
        self.error: Exception | None = None
        self.takes_s = 0.0

    def call(self) -> str | None:
        return self.circuit.call(self._ask)

    def _ask(self, client: Any) -> str:
        assert client is self.client
        self.asked += 1
        self.clock.sleep(self.takes_s)
        if self.error:
            raise self.error
        return "answer"

    def break_it(self) -> None:
        self.error = exceptions.TimeoutError()
        for _ in range(3):
            assert self.call() is None


def test_an_answer_comes_through() -> None:
    stand = Stand()
    assert stand.call() == "answer"
    assert (stand.circuit.state, stand.circuit.failures, stand.client.disconnects) == ("closed", 0, 0)


@pytest.mark.parametrize(
    "error", [exceptions.TimeoutError(), exceptions.ResponseError("ERR"), OSError(), ValueError(), IndexError()]
)
def test_any_failure_is_no_answer_and_ends_the_connection(error: Exception) -> None:
    stand = Stand()
    stand.error = error
    assert stand.call() is None
    assert (stand.circuit.failures, stand.client.disconnects) == (1, 1)


def test_three_failures_open_it_and_a_second_later_one_call_tries_again() -> None:
    stand = Stand()
    stand.break_it()
    for _ in range(100):
        assert stand.call() is None
    assert (stand.circuit.state, stand.asked) == ("open", 3)
    stand.clock.sleep(OPEN_S + 0.1)
    assert stand.call() is None
    assert stand.call() is None
    assert (stand.circuit.state, stand.asked) == ("open", 4)
    stand.error = None
    stand.clock.sleep(OPEN_S + 0.1)
    assert stand.call() == "answer"
    assert (stand.circuit.state, stand.circuit.failures) == ("closed", 4)


def test_one_failure_now_and_then_does_not_open_it() -> None:
    stand = Stand()
    for number in range(20):
        stand.error = None if number % 3 == 2 else exceptions.TimeoutError()
        stand.call()
    assert (stand.circuit.state, stand.asked) == ("closed", 20)


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_step_of_the_walls_clock_neither_opens_nor_holds_it(monkeypatch: pytest.MonkeyPatch, step: timedelta) -> None:
    class Stepped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(UTC) + step

    stand = Stand()
    stand.break_it()
    monkeypatch.setattr(pybreaker, "datetime", Stepped)
    monkeypatch.setattr(redis_client, "datetime", Stepped)
    stand.call()
    assert stand.asked == 3
    stand.clock.sleep(OPEN_S + 0.1)
    stand.call()
    assert stand.asked == 4


def test_what_fails_slowly_is_asked_seldom() -> None:
    """A name server that does not answer keeps a call for long, whatever its time-outs."""
    stand = Stand()
    stand.takes_s = 10.0
    stand.break_it()
    stand.clock.sleep(49)
    stand.call()
    assert stand.asked == 3
    stand.clock.sleep(2)
    stand.takes_s = 0.01
    stand.call()
    assert stand.asked == 4
    stand.clock.sleep(OPEN_S + 0.1)
    stand.call()
    assert stand.asked == 5, "a quick failure opens it for a second only"


class Wire:
    """A socket on which every byte takes its time."""

    def __init__(self, clock: ManualClock, byte_s: float) -> None:
        self._clock = clock
        self._byte_s = byte_s
        self._timeout_s: float | None = None

    def settimeout(self, seconds: float | None) -> None:
        self._timeout_s = seconds

    def gettimeout(self) -> float | None:
        return self._timeout_s

    def sendall(self, data: bytes) -> None:
        self._take(len(data) * self._byte_s)

    def recv(self, size: int) -> bytes:
        self._take(self._byte_s)
        if self._timeout_s == 0:
            raise BlockingIOError
        return b"x" * (1 if self._byte_s else size)

    def _take(self, seconds: float) -> None:
        assert self._timeout_s is not None
        self._clock.sleep(min(seconds, self._timeout_s))
        if seconds > self._timeout_s:
            raise TimeoutError


def wire(monkeypatch: pytest.MonkeyPatch, byte_s: float) -> tuple[Patience, ManualClock]:
    clock = ManualClock()
    monkeypatch.setattr(redis_client, "time", SimpleNamespace(monotonic=clock.now))
    line = Patience(Wire(clock, byte_s), TIMEOUT_S)
    line.settimeout(TIMEOUT_S)
    return line, clock


@pytest.mark.parametrize("byte_s", [0.001, 0.015, 0.019])
def test_an_answer_that_drips_is_waited_for_no_longer_than_one_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, byte_s: float
) -> None:
    line, clock = wire(monkeypatch, byte_s)
    began = clock.now()
    line.sendall(b"x")
    with pytest.raises(TimeoutError):
        deque(iter(lambda: line.recv(1), b""), maxlen=0)
    assert clock.now() - began <= TIMEOUT_S * 1.01


def test_a_question_that_is_taken_in_drops_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    line, clock = wire(monkeypatch, 0.0001)
    began = clock.now()
    with pytest.raises(TimeoutError):
        deque(map(line.sendall, [b"x" * 100] * 1000), maxlen=0)
    assert clock.now() - began <= TIMEOUT_S * 1.01


def test_every_call_has_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = wire(monkeypatch, 0.004)
    for _ in range(10):
        line.sendall(b"xx")
        assert line.recv(1) + line.recv(1) == b"xx"


def test_what_we_take_to_read_a_large_answer_is_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    line, clock = wire(monkeypatch, 0.0)
    line.sendall(b"x")
    for _ in range(100):
        assert line.recv(65_536)
        clock.sleep(0.05)


def test_whether_something_is_there_costs_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = wire(monkeypatch, 0.0)
    line.settimeout(0)
    with pytest.raises(BlockingIOError):
        line.recv(1)


def test_it_says_what_failed_and_when_it_works_again_and_no_more() -> None:
    stand = Stand()
    with capture_logs() as logs:
        stand.call()
        stand.break_it()
        stand.call()
        stand.error = None
        stand.clock.sleep(OPEN_S + 0.1)
        stand.call()
        stand.call()
    assert [(line["log_level"], line["event"]) for line in logs] == [
        *[("warning", "redis: asking failed; going on without")] * 3,
        ("info", "redis: asking works again"),
    ]
    assert logs[0]["why"] == "no answer in time; cache.timeout_ms is the longest wait"


def annotated(said: str) -> exceptions.NoPermissionError:
    return exceptions.NoPermissionError(said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (annotated("this user has no permissions to run the 'mget' command"), "lacks the right +mget;"),
        (annotated("this user has no permissions to run the 'client|setname' command"), "+client|setname;"),
        (
            annotated(
                "Command # 1 (SET k 'pii' command) of pipeline caused error: User streamer has no permissions to run "
                "the 'set' command"
            ),
            "lacks the right +set;",
        ),
        (annotated("No permissions to access a key"), "may not touch keys"),
        (exceptions.AuthenticationError("WRONGPASS hunter2"), "refuses the user or password"),
        (exceptions.OutOfMemoryError("OOM"), "full"),
        (exceptions.ReadOnlyError("READONLY"), "replica"),
        (exceptions.BusyLoadingError("LOADING"), "still loading"),
        (exceptions.TimeoutError("hunter2"), "no answer in time"),
        (exceptions.TimeoutError("Timeout connecting to server"), "does it speak TLS (rediss://) or not"),
        (exceptions.ConnectionError("Error 1 connecting to h:1. [SSL: CERTIFICATE_VERIFY_FAILED]"), "certificate"),
        (exceptions.ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "no TLS with it"),
        (exceptions.ConnectionError("Error 111 connecting to hunter2:1. Connection refused."), "is Redis running"),
        (exceptions.ResponseError("hunter2 pii"), "ResponseError"),
        (ValueError("hunter2"), "ValueError"),
    ],
)
def test_why_names_the_cure_and_quotes_nothing(error: Exception, said: str) -> None:
    told = why(error)
    assert said in told
    assert "hunter2" not in told
    assert "pii" not in told


def test_a_client_shows_no_password() -> None:
    client = connect("rediss://user:hunter2@host:1/3", 20)
    shown = f"{client!r} {client.connection_pool!r} {client.connection_pool.make_connection()!r}"
    assert "host" in shown
    assert "hunter2" not in shown


def test_the_url_cannot_change_the_waits() -> None:
    given = connect("redis://host:1/3", 20).connection_pool.connection_kwargs
    assert (given["socket_timeout"], given["socket_connect_timeout"], given["retry"].get_retries()) == (0.02, 0.05, 0)


def test_it_tells_the_server_no_more_of_itself_than_its_name() -> None:
    """Redis 7.2 knows CLIENT SETINFO, for which the ACL user has no right."""
    connection: Any = connect("redis://host", 20).connection_pool.make_connection()
    assert connection.driver_info is None


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(BadConfig, match=rf"cache.url: {name} .*missing.pem cannot be read") as refused:
        connect(f"rediss://:hunter2@host:1?{name}={missing}", 20)
    assert "hunter2" not in str(refused.value)
    missing.write_text("x")
    connect(f"rediss://:hunter2@host:1?{name}={missing}", 20)
