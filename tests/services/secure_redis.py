"""A real Redis that lets nobody in: deploy/redis.conf and deploy/redis.acl as they are, certificates of its own."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlencode

import redis
import trustme

from tests.services.process import HOST, LocalProcess, Process, ServiceError, free_ports
from tests.services.redis_service import Redis

DEPLOY = Path(__file__).parents[2] / "deploy"
USER = "streamer"
ACL = (DEPLOY / "redis.acl").read_text()
PLACEHOLDER = "PASSWORD-SHA256"
NO_MORE: Mapping[str, str] = MappingProxyType({})


class SecureRedis(Redis):
    """TLS only, its certificate for 127.0.0.1. `url` is the worker's; `client()` is the tests' own and may do anything.

    A test that changes rights puts them back by `reload`.
    """

    def __init__(self, process: Process, port: int, folder: Path, ca: trustme.CA, passwords: dict[str, str]) -> None:
        self.port = port
        self.folder = folder
        self.ca = ca
        self.password = passwords[USER]
        self._admin = self.address(password=passwords["tests"], user="tests", tls=self.certificate())
        super().__init__(self.address(), process)

    def address(
        self,
        host: str = HOST,
        db: int = 0,
        password: str | None = None,
        user: str = USER,
        tls: Mapping[str, str] = NO_MORE,
    ) -> str:
        """A URL of the server; `tls` goes after the `?`, beside the authority's certificate."""
        query = urlencode({"ssl_ca_certs": str(self.folder / "ca.crt"), **tls})
        return f"rediss://{user}:{password or self.password}@{host}:{self.port}/{db}?{query}"

    def certificate(self) -> dict[str, str]:
        """A client's certificate by the server's authority, as a URL names it."""
        crt, key = self.folder / "client.crt", self.folder / "client.key"
        if not crt.exists():
            issue(self.ca, USER, crt, key)
        return {"ssl_certfile": str(crt), "ssl_keyfile": str(key)}

    def client(self) -> redis.Redis:
        client: redis.Redis = redis.Redis.from_url(
            self._admin, socket_connect_timeout=1, socket_timeout=1, retry=None, protocol=2
        )
        return client

    def change(self, *rules: str) -> None:
        """Change what the worker may do; it keeps its connections."""
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", USER, *rules)

    def reload(self) -> None:
        """The rights of the file again; the server ends the connections of whoever they change for."""
        with self.client() as client:
            client.execute_command("ACL", "LOAD")


def start_secure_redis(acl: str = ACL) -> SecureRedis:
    """A running server with these rights; ServiceError when there is no redis-server that can do TLS."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise ServiceError("no Redis with TLS to test against: install redis-server 7 or newer, built with TLS")
    folder = Path(tempfile.mkdtemp(prefix="streamer-redis-"))
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.crt")
    issue(ca, HOST, folder / "server.crt", folder / "server.key")
    passwords = {user: secrets.token_hex(16) for user in (USER, "tests")}
    acl = acl.replace(PLACEHOLDER, hashlib.sha256(passwords[USER].encode()).hexdigest())
    (folder / "redis.acl").write_text(f"{acl}user tests on >{passwords['tests']} ~* &* +@all\n")
    (port,) = free_ports(1)
    options = ["--bind", HOST, "--tls-port", str(port), "--dir", str(folder), "--aclfile", str(folder / "redis.acl")]
    options += ["--tls-ca-cert-file", "ca.crt", "--tls-cert-file", "server.crt", "--tls-key-file", "server.key"]
    process = LocalProcess([binary, str(DEPLOY / "redis.conf"), *options], folder)
    return SecureRedis(process, port, folder, ca, passwords).launch()


def issue(ca: trustme.CA, name: str, crt: Path, key: Path) -> None:
    """A certificate for a host or a user, by this authority."""
    made = ca.issue_cert(name)
    made.private_key_pem.write_to_path(key)
    crt.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
