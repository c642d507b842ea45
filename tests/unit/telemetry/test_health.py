"""Probes: live while the loop turns, whatever the broker does; ready when records are served."""

from __future__ import annotations

import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from streamer import app
from streamer.errors import BadConfig
from streamer.models import Model
from streamer.settings import Settings
from streamer.telemetry.health import CONNECTIONS_MAX, STALE_S, Health, HealthServer
from streamer.telemetry.metrics import Metrics
from streamer.testing.fakes import FakeKafka
from streamer.testing.serving import Bench, live, records
from tests.echo import Echo, Ping, ping


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def time_ms(self) -> int:
        return int(self.seconds * 1000)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def health(clock: Hand) -> Health:
    return Health(clock)


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    made = HealthServer("127.0.0.1", 0, health, Metrics("w", "v1", CollectorRegistry()).text)
    made.start()
    yield made
    made.close()


def ask(server: HealthServer, path: str, method: str = "GET") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_start_however_long_is_live_and_not_ready(server: HealthServer, health: Health, clock: Hand) -> None:
    clock.sleep(10 * STALE_S)
    assert ask(server, "/livez") == 200
    assert ask(server, "/startupz") == ask(server, "/readyz") == 503
    health.warm()
    clock.sleep(10 * STALE_S)  # waiting for a broker that is away
    assert ask(server, "/livez") == ask(server, "/startupz") == 200
    assert ask(server, "/readyz") == 503


def test_ready_is_warm_and_assigned(server: HealthServer, health: Health) -> None:
    health.assigned()
    assert ask(server, "/readyz") == ask(server, "/v2/health/ready") == 503
    health.warm()
    assert ask(server, "/readyz") == ask(server, "/v2/health/ready") == 200
    health.left()
    assert ask(server, "/readyz") == 503


def test_live_is_a_loop_that_turns(server: HealthServer, health: Health, clock: Hand) -> None:
    health.warm()
    health.beat()
    clock.sleep(STALE_S - 1)
    assert ask(server, "/livez") == ask(server, "/v2/health/live") == 200
    clock.sleep(2)
    assert ask(server, "/livez") == ask(server, "/v2/health/live") == 503
    health.beat()
    assert ask(server, "/livez") == 200


def test_metrics_are_served(server: HealthServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert b"streamer_build_info" in answer.read()


def test_other_paths_and_methods_are_refused(server: HealthServer) -> None:
    assert ask(server, "/") == 404
    assert ask(server, "/livez", method="POST") == 405
    assert ask(server, "/livez", method="HEAD") == 200


def test_a_taken_port_is_a_clear_error(server: HealthServer, health: Health) -> None:
    with pytest.raises(BadConfig, match=rf"127.0.0.1:{server.port}.*set http.port to a free port"):
        HealthServer("127.0.0.1", server.port, health, Metrics("w", "v1", CollectorRegistry()).text)


def test_an_address_of_another_machine_is_a_clear_error(health: Health) -> None:
    with pytest.raises(BadConfig, match=r"http\.host"):
        HealthServer("192.0.2.1", 0, health, Metrics("w", "v1", CollectorRegistry()).text)


def test_close_frees_the_port(health: Health) -> None:
    first = HealthServer("127.0.0.1", 0, health, Metrics("w", "v1", CollectorRegistry()).text)
    first.start()
    first.close()
    HealthServer("127.0.0.1", first.port, health, Metrics("w", "v1", CollectorRegistry()).text).close()


TOKEN = "a token of sixteen or more"


@pytest.fixture
def drained() -> list[str]:
    return []


@pytest.fixture
def guarded(health: Health, drained: list[str]) -> Iterator[HealthServer]:
    metrics = Metrics("w", "v1", CollectorRegistry())
    made = HealthServer("127.0.0.1", 0, health, metrics.text, token=TOKEN, drain=lambda: drained.append("drain"))
    made.start()
    yield made
    made.close()


def say(server: HealthServer, data: bytes) -> bytes:
    """Everything that is answered to these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def drain(server: HealthServer, authorization: str | None, body: bytes = b"") -> int:
    header = f"Authorization: {authorization}\r\n" if authorization else ""
    head = f"POST /drain HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(body)}\r\n\r\n"
    return int(say(server, head.encode() + body).split()[1])


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_without_the_token_nothing_drains(guarded: HealthServer, drained: list[str], given: str | None) -> None:
    assert drain(guarded, given) == 401
    assert drained == []


def test_with_the_token_it_drains_once_however_often_it_is_asked(guarded: HealthServer, drained: list[str]) -> None:
    assert [drain(guarded, f"Bearer {TOKEN}") for _ in range(3)] == [202] * 3
    assert drained == ["drain"]  # a second SIGTERM would end the process at once


def test_where_no_token_is_set_nobody_may_drain(server: HealthServer) -> None:
    assert drain(server, "Bearer ") == drain(server, None) == drain(server, "Bearer None") == 403


def test_only_post_drains_and_nothing_else_is_posted(guarded: HealthServer, drained: list[str]) -> None:
    assert [ask(guarded, "/drain", method) for method in ("GET", "HEAD")] == [405, 405]
    assert [ask(guarded, path, "POST") for path in ("/metrics", "/livez", "/nowhere")] == [405] * 3
    assert ask(guarded, "/livez", "DELETE") == 405
    assert drained == []


def test_a_body_is_neither_needed_nor_in_the_way(guarded: HealthServer, drained: list[str]) -> None:
    assert drain(guarded, f"Bearer {TOKEN}", b"x" * 8_000) == 202
    assert drained == ["drain"]


def test_a_drain_is_what_sigterm_is(health: Health) -> None:
    class Engine:
        stops = 0

        def stop(self) -> None:
            self.stops += 1

    engine = Engine()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    server = HealthServer(
        "127.0.0.1", 0, health, Metrics("w", "v1", CollectorRegistry()), token=TOKEN, drain=app._terminate
    )
    server.start()
    try:
        app._stop_on_signals(engine)  # type: ignore[arg-type]
        assert drain(server, f"Bearer {TOKEN}") == drain(server, f"Bearer {TOKEN}") == 202
        assert engine.stops == 1
    finally:
        server.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_slow_client_is_cut_off_and_others_are_served_meanwhile(
    guarded: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.telemetry.health.REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        assert ask(guarded, "/livez") == 200
        for _ in range(100):  # a byte now and then, each well within any time-out of a single read
            try:
                slow.sendall(b"x")
            except OSError:
                return
            slow.settimeout(0.1)
            try:
                assert slow.recv(1_000) == b""
            except TimeoutError:
                continue
            except OSError:
                return
            return
        raise AssertionError("still served")


def test_many_silent_clients_are_few_threads_and_soon_gone(
    guarded: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.telemetry.health.REQUEST_S", 0.3)
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", guarded.port), timeout=10) for _ in range(3 * CONNECTIONS_MAX)]
    assert threading.active_count() <= before + CONNECTIONS_MAX
    for client in silent:
        with client, suppress(ConnectionError):
            assert client.recv(1_000) == b""
    assert ask(guarded, "/livez") == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_a_large_request_is_not_served(guarded: HealthServer, data: bytes) -> None:
    try:
        answer = say(guarded, data)
    except ConnectionError:
        answer = b""
    assert b" 200 " not in answer[:20]
    assert ask(guarded, "/livez") == 200


@pytest.mark.parametrize("data", [b"\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n"])
def test_nonsense_is_refused_and_says_nothing_of_what_runs_here(
    guarded: HealthServer, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        answer = say(guarded, data + b"\r\n\r\n")
    except ConnectionError:
        answer = b""
    assert b"Python" not in answer
    assert b" 200 " not in answer[:20]
    assert capfd.readouterr().err == ""


def test_by_default_only_this_machine_can_ask() -> None:
    assert Settings().http.host == "127.0.0.1"
    assert Settings().http.token is None


def test_a_short_token_is_refused_and_none_is_shown() -> None:
    with pytest.raises(ValidationError, match="at least 16"):
        Settings(http={"token": "short"})  # type: ignore[arg-type]
    settings = Settings(http={"token": TOKEN})  # type: ignore[arg-type]
    assert TOKEN not in repr(settings) + str(settings.model_dump())


def test_no_metric_holds_an_id() -> None:
    """An id of an event, a key or a customer is in no label, whatever became of the event."""
    metrics = Metrics("echo", "v1", CollectorRegistry())
    kafka = FakeKafka(
        records([ping(7, name="key-of-a-person"), b'{"event_id":"id-of-a-person"}', ping(8, fault="raise")], Ping.topic)
    )
    live(Echo(), kafka, Bench(), Model.none("echo"), metrics)
    text = metrics.text().decode()
    assert 'streamer_dlq_messages_total{reason="invalid",worker="echo"} 1.0' in text
    assert "person" not in text
    labels = set(re.findall(r'[{,]([a-z_]+)="', text))
    assert labels <= {"worker", "outcome", "reason", "result", "kind", "stage", "partition", "le"} | {
        "version",
        "model_version",
    }
