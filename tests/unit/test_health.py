"""Probes: live while the loop turns, whatever the broker does; ready when records are served."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from streamer.errors import BadConfig
from streamer.health import STALE_S, Health, HealthServer
from streamer.metrics import Metrics


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
    made = HealthServer("127.0.0.1", 0, health, Metrics("w", "v1", CollectorRegistry()))
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
        HealthServer("127.0.0.1", server.port, health, Metrics("w", "v1", CollectorRegistry()))


def test_an_address_of_another_machine_is_a_clear_error(health: Health) -> None:
    with pytest.raises(BadConfig, match=r"http\.host"):
        HealthServer("192.0.2.1", 0, health, Metrics("w", "v1", CollectorRegistry()))


def test_close_frees_the_port(health: Health) -> None:
    first = HealthServer("127.0.0.1", 0, health, Metrics("w", "v1", CollectorRegistry()))
    first.start()
    first.close()
    HealthServer("127.0.0.1", first.port, health, Metrics("w", "v1", CollectorRegistry())).close()
