"""Redis with TLS and an ACL user: deploy/redis.conf and deploy/redis.acl let a worker do its work, and no more."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
import structlog
import trustme
from structlog.testing import capture_logs

from streamer.cache.redis_client import connect, why
from streamer.cli import check
from streamer.errors import Unreachable
from streamer.settings import Settings
from streamer.telemetry import log
from streamer.testing import ManualClock
from streamer.windows.shelf import Shelf
from tests.echo import features_of
from tests.integration.cached_runs import EVENTS, RESET_S, hits, redis_cache, redis_features, run
from tests.services import Redis, ServiceError
from tests.services.secure_redis import ACL, PLACEHOLDER, USER, SecureRedis, start_secure_redis

RIGHTS = sorted(
    word[1:] for line in ACL.splitlines() if line.startswith(f"user {USER} ") for word in line.split() if word[0] == "+"
)
ANSWERS, FEATURES = "%RW~streamer:answer:*", "%R~streamer:features:*"
WINDOWS = "%R~streamer:windows:*"
TIMEOUT_MS = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[SecureRedis]:
    with start_secure_redis() as server:
        yield server


@pytest.fixture(autouse=True)
def whole(server: SecureRedis) -> None:
    """Every test begins with the rights of the file, and with one entity's features and no answers."""
    server.reload()
    with server.client() as client:
        client.flushall()
        client.hset("streamer:features:echo:known", mapping={"bonus": "2.5"})


class Seen:
    """What a worker of a URL gets: answers from the cache (all are right, or `run` fails), features, and its log."""

    def __init__(self, url: str) -> None:
        with capture_logs() as logs:
            cache = redis_cache(url, timeout_ms=TIMEOUT_MS)
            run(cache)
            self.stored = cache.circuit() == ("closed", 0)
            cache.close()
            again = redis_cache(url, timeout_ms=TIMEOUT_MS)
            self.hits = hits(run(again))
            again.close()
            self.features = features_of(redis_features(url, TIMEOUT_MS), "known")[0]
        self.log = [f"{line['event']}: {line.get('why')}" for line in logs]
        assert "streamer:" not in "".join(self.log).replace("begin with streamer:", ""), "no key is in a log"

    def says(self, kind: str, cause: str) -> bool:
        """Whether a line about this kind of call names this cause."""
        return any(line.startswith(f"redis: {kind} failed") and cause in line for line in self.log)


READ, STORE, KNOW = "looking up answers", "storing answers", "reading features"


def test_the_files_of_deploy_let_a_worker_work(server: SecureRedis) -> None:
    seen = Seen(server.url)
    assert (seen.stored, seen.hits, seen.features, seen.log) == (True, EVENTS, {"bonus": 2.5}, [])


def test_the_list_holds_exactly_the_commands_that_are_sent(server: SecureRedis) -> None:
    with server.client() as admin, admin.monitor() as monitor:
        url = server.address(db=1)
        Seen(url)
        connect(url, TIMEOUT_MS).ping()
        end = uuid4().hex
        with server.client() as other:
            other.echo(end)
        sent: set[str] = set()
        workers: set[str] = set()
        for said in monitor.listen():
            words = str(said["command"]).split(" ")
            if end in words:
                break
            if words[0] == "CLIENT" and words[2] == "streamer":
                workers.add(said["client_port"])
            if said["client_port"] in workers:
                sent.add("|".join(words[:2] if words[0] == "CLIENT" else words[:1]).lower())
        assert sorted(sent - {"auth"}) == RIGHTS  # AUTH is anybody's


def test_nothing_else_is_allowed(server: SecureRedis) -> None:
    with server.client() as admin:
        user: Any = admin.acl_getuser(USER)
        assert sorted(user["commands"]) == [f"+{name}" for name in RIGHTS]
        assert (user["categories"], user["channels"]) == (["-@all"], [])
        assert user["keys"] == ["~streamer:answer:*", FEATURES, WINDOWS]
        admin.set("foreign", "x")
        admin.set("streamer:answer:x", "x")
    worker: Any = connect(server.url, TIMEOUT_MS)
    for command in [
        "GET streamer:answer:x",
        "DEL streamer:answer:x",
        "MGET foreign",
        "MGET streamer:answer:x foreign",
        "SET foreign y",
        "SET streamer:features:echo:known y",
        "HSET streamer:features:echo:known bonus 9",
        "HGETALL foreign",
        "KEYS *",
        "SCAN 0",
        "FLUSHALL",
        "CONFIG GET *",
        "ACL WHOAMI",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "EVAL return(1) 0",
        "FUNCTION LIST",
        "MODULE LIST",
        "MONITOR",
        "INFO",
        "PUBLISH channel x",
        "SUBSCRIBE channel",
        "REPLICAOF NO ONE",
        "SAVE",
        "SHUTDOWN",
    ]:
        with pytest.raises(redis.exceptions.NoPermissionError):
            worker.execute_command(*command.split())


def test_the_windows_process_writes_its_copy_and_no_more(server: SecureRedis) -> None:
    client: Any = connect(server.address(user="windows"), TIMEOUT_MS)
    shelf = Shelf(client, "w", "v", ManualClock())
    for at in range(2):
        assert asyncio.run(shelf.show(0, at, {b"a": b"1"}, lambda: [(b"a", b"1")]))
    with server.client() as admin:
        assert admin.get("streamer:windows:w.v:0:a") == b"1"
        user: Any = admin.acl_getuser("windows")
        assert user["keys"] == ["%W~streamer:windows:*", "~streamer:windows-mark:*"]
    for command in [
        "GET streamer:windows:w.v:0:a",
        "SET streamer:answer:x y",
        "SET foreign y",
        "KEYS *",
        "DEL foreign",
    ]:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://HOST", "Authentication required"),
        ("rediss://:PASSWORD@HOST", "invalid username-password pair"),
        ("rediss://streamer:wrong@HOST", "invalid username-password pair"),
    ],
)
def test_nobody_comes_in_without_the_users_password(server: SecureRedis, url: str, said: str) -> None:
    url = url.replace("HOST", server.url.partition("@")[2]).replace("PASSWORD", server.password)
    with pytest.raises(redis.exceptions.AuthenticationError, match=said):
        connect(url, TIMEOUT_MS).ping()
    seen = Seen(url)
    assert (seen.stored, seen.hits, seen.features) == (False, 0, {})
    for kind in (READ, STORE, KNOW):
        assert seen.says(kind, "it refuses the user or password in cache.url")


LOST = {
    "mget": (READ,),
    "set": (STORE,),
    "hgetall": (KNOW,),
    "client|setname": (READ, STORE, KNOW),
    "select": (READ, STORE, KNOW),
    "ping": (),
}


def test_every_right_is_taken_away_below() -> None:
    assert sorted(LOST) == RIGHTS


@pytest.mark.parametrize("right", LOST)
def test_without_one_right_its_calls_alone_fail_and_name_it(server: SecureRedis, right: str) -> None:
    server.change(f"-{right}")
    seen = Seen(server.address(db=1 if right == "select" else 0))
    broken = LOST[right]
    for kind in (READ, STORE, KNOW):
        named = f"lacks the right +{right}; deploy/redis.acl"
        assert seen.says(kind, named) is (kind in broken), seen.log
        assert seen.says(kind, "") is (kind in broken), seen.log
    assert seen.hits == (0 if {READ, STORE} & set(broken) else EVENTS)
    assert seen.features == ({} if KNOW in broken else {"bonus": 2.5})
    server.reload()
    if right not in ("ping", "client|setname"):
        assert Seen(server.url).hits == EVENTS


@pytest.mark.parametrize("right", ["ping", "client|setname"])
def test_check_names_the_right_that_is_missing(server: SecureRedis, right: str) -> None:
    chosen = Settings(cache={"url": server.url})
    assert check._cache(chosen) == "Redis answers"
    server.change(f"-{right}")
    with pytest.raises(Unreachable) as refused:
        check._cache(chosen)
    assert f"lacks the right +{right}; deploy/redis.acl has all that it needs" in str(refused.value)


@pytest.mark.parametrize(("kept", "lost"), [(ANSWERS, (KNOW,)), (FEATURES, (READ, STORE))])
def test_without_its_keys_a_kind_of_call_fails_and_says_so(
    server: SecureRedis, kept: str, lost: tuple[str, ...]
) -> None:
    server.change("resetkeys", kept)
    seen = Seen(server.url)
    for kind in (READ, STORE, KNOW):
        assert seen.says(kind, "may not touch keys that begin with streamer:") is (kind in lost)
    assert seen.hits == (EVENTS if kept == ANSWERS else 0)
    assert seen.features == ({"bonus": 2.5} if kept == FEATURES else {})


def test_a_right_that_comes_back_is_noticed(server: SecureRedis) -> None:
    server.change("-mget")
    run(redis_cache(server.url, timeout_ms=TIMEOUT_MS))
    clock = ManualClock()
    cache = redis_cache(server.url, timeout_ms=TIMEOUT_MS, clock=clock)
    run(cache)
    assert cache.circuit()[0] == "open"
    server.reload()
    clock.sleep(RESET_S)
    assert hits(run(cache)) == EVENTS
    assert cache.circuit()[0] == "closed"


def nothing_works(url: str, cause: str) -> None:
    """Answers are right all the same, and every kind of call says why it is not."""
    seen = Seen(url)
    assert (seen.stored, seen.hits, seen.features) == (False, 0, {})
    for kind in (READ, STORE, KNOW):
        assert seen.says(kind, cause), seen.log


def test_plain_text_is_not_spoken(server: SecureRedis) -> None:
    nothing_works(f"redis://{USER}:{server.password}@127.0.0.1:{server.port}", "no connection, or it was cut")


class Plain:
    """A server that speaks no TLS, and remembers what it was told."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.told = bytearray()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.told += connection.recv(65536)
                connection.sendall(b"-ERR unknown command\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def test_a_server_without_tls_gets_no_password(server: SecureRedis) -> None:
    plain = Plain()
    try:
        nothing_works(server.url.replace(f":{server.port}/", f":{plain.port}/"), "no TLS with it")
    finally:
        plain.close()
    assert plain.told
    assert server.password.encode() not in plain.told


def test_a_plain_redis_behind_a_url_with_tls_is_told_apart(server: SecureRedis, redis_server: Redis) -> None:
    """It waits for the rest of a command, as the handshake looks like one."""
    place = redis_server.url.removeprefix("redis://").partition("/")[0]
    with pytest.raises(redis.TimeoutError) as refused:
        connect(f"rediss://{USER}:{server.password}@{place}", 200).ping()
    assert "does it speak TLS" in why(refused.value)


def test_the_certificate_must_be_by_an_authority_that_is_named(server: SecureRedis, tmp_path: Path) -> None:
    nothing_works(server.url.partition("?")[0], "its certificate is not by an authority")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    nothing_works(
        server.address(tls={"ssl_ca_certs": str(tmp_path / "other.crt")}), "its certificate is not by an authority"
    )


def test_the_certificate_must_be_for_the_host(server: SecureRedis) -> None:
    nothing_works(server.address("localhost"), "or not for the host in cache.url")


def test_a_server_may_ask_for_a_certificate_of_ours(server: SecureRedis) -> None:
    with server.client() as admin:
        admin.config_set("tls-auth-clients", "yes")
    try:
        with pytest.raises(redis.ConnectionError) as refused:
            connect(server.url, TIMEOUT_MS).ping()
        assert "ssl_certfile" in why(refused.value)
        assert Seen(server.address(tls=server.certificate())).hits == EVENTS
    finally:
        with server.client() as admin:
            admin.config_set("tls-auth-clients", "no")


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What a worker prints, whatever other tests have set up."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    log.configure("debug", "json")
    yield capfd
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_no_log_holds_the_password(server: SecureRedis, printed: pytest.CaptureFixture[str]) -> None:
    """As it is printed, not as a test captures it."""
    wrong = server.address(password="hunter2")
    for url in (
        wrong,
        wrong.replace("rediss://", "redis://").partition("?")[0],
        wrong.replace("127.0.0.1", "localhost"),
    ):
        run(redis_cache(url))
        features_of(redis_features(url), "known")
    said = printed.readouterr()
    assert "it refuses the user or password" in said.out + said.err
    assert "hunter2" not in said.out + said.err


def test_the_list_as_it_is_in_deploy_starts_no_server() -> None:
    """Its password is for whoever deploys it to set."""
    with pytest.raises(ServiceError, match=r"(?s)exited with 1.*ACL"):
        start_secure_redis(ACL.replace(PLACEHOLDER, f"{PLACEHOLDER[:-1]}X"))
