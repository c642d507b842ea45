"""Probes, metrics and a drain (the one thing that HTTP may change), on daemon threads.

Live means that the loop turns, whatever the broker does. A restart cures a stuck loop and nothing else. Restarting
every worker while the broker is away would only make the broker's return harder.
"""

from __future__ import annotations

import hmac
import io
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from streamer.clock import Clock, SystemClock
from streamer.errors import BadConfig

STALE_S = 60.0
"""A loop that has not turned for this long is stuck: its longest lawful step, a revoke or a commit, takes seconds."""

DRAIN = "/drain"
TEXT = "text/plain"

CONNECTIONS_MAX = 32
REQUEST_S = 2.0
REQUEST_BYTES_MAX = 16 * 1024
RESPONSE_S = 10.0
POLL_S = 0.1
"""How often the server looks whether `close` was called."""

Answer = tuple[int, str, bytes]  # status, content type, body


class Health:
    """What the probes ask. Written by the owner thread, read by the server's: every write is one assignment."""

    def __init__(self, clock: Clock | None = None, on_beat: Callable[[float], None] = lambda now: None) -> None:
        self._clock = clock or SystemClock()
        self._on_beat = on_beat
        self._beat: float | None = None
        self._warm = False
        self._assigned = False

    def beat(self) -> None:
        """The loop has turned."""
        self._beat = now = self._clock.now()
        self._on_beat(now)

    def warm(self) -> None:
        """The model is loaded and has answered its example."""
        self._warm = True

    def assigned(self) -> None:
        """The group has told this replica its partitions, or that it gets none."""
        self._assigned = True

    def left(self) -> None:
        """This replica is leaving its group."""
        self._assigned = False

    def live(self) -> bool:
        """Whether the loop turns. True before its first turn: loading a model or waiting for a broker may take long."""
        return self._beat is None or self._clock.now() - self._beat < STALE_S

    def started(self) -> bool:
        """Whether the model is warm."""
        return self._warm

    def ready(self) -> bool:
        """Whether records are served."""
        return self._warm and self._assigned


class HealthServer:
    """Serves `/livez`, `/readyz`, `/startupz`, `/metrics`, the Open Inference Protocol's names of the first two, and a
    drain.

    Anyone who can reach the port may read. `POST /drain` does what SIGTERM does, for a stop hook. It needs `token` as
    `Authorization: Bearer …`; without a token nobody may drain. A slow, large or unfinished request occupies one of
    `CONNECTIONS_MAX` places for `REQUEST_S`, and never the engine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        health: Health,
        metrics: Callable[[], bytes],
        *,
        token: str | None = None,
        drain: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind. `metrics` gives what Prometheus reads.

        Raises:
            BadConfig: the port is taken, or this process may not take it.
        """
        probes: dict[str, Callable[[], bool]] = {
            "/livez": health.live,
            "/readyz": health.ready,
            "/startupz": health.started,
            "/v2/health/live": health.live,
            "/v2/health/ready": health.ready,
        }
        try:
            self._server = _Server((host, port), _Site(probes, metrics, token, drain))
        except OSError as error:
            raise BadConfig(
                f"cannot serve probes on {host}:{port}: {error.strerror or error}; "
                "set http.port to a free port (0: any), or http.host to an address of this machine"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port that is served; the system chose it when 0 was asked for."""
        return self._server.server_port

    def start(self) -> None:
        """Serve until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Site:
    """The answers, whatever the connection."""

    def __init__(
        self,
        probes: Mapping[str, Callable[[], bool]],
        metrics: Callable[[], bytes],
        token: str | None,
        drain: Callable[[], None],
    ) -> None:
        self._probes = probes
        self._metrics = metrics
        self._token = token.encode() if token else None
        self._drain = drain
        self._draining = threading.Lock()

    def read(self, path: str) -> Answer:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, self._metrics()
        probe = self._probes.get(path)
        if probe:
            return (200, TEXT, b"ok\n") if probe() else (503, TEXT, b"no\n")
        if path == DRAIN:
            return 405, TEXT, b"use POST\n"
        return 404, TEXT, f"there is {', '.join(self._probes)}, /metrics and {DRAIN}\n".encode()

    def change(self, path: str, authorization: str) -> Answer:
        if path != DRAIN:
            return 405, TEXT, b"use GET\n"
        if self._token is None:
            return 403, TEXT, b"set http.token to allow it\n"
        if not hmac.compare_digest(authorization.encode(errors="replace"), b"Bearer " + self._token):
            return 401, TEXT, b"send Authorization: Bearer and the token\n"
        if self._draining.acquire(blocking=False):  # only once: a second SIGTERM would end the process at once
            self._drain()
        return 202, TEXT, b"draining\n"


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and few of them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], site: _Site) -> None:
        self.site = site
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            return self.shutdown_request(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or sends nonsense, is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "streamer"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Bounded(self.connection), 4096)

    def do_GET(self) -> None:
        self._answer(self.server.site.read(self._path()))

    def do_HEAD(self) -> None:
        self._answer(self.server.site.read(self._path()))

    def do_POST(self) -> None:
        self._answer(self.server.site.change(self._path(), self.headers.get("Authorization", "")))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815

    def _answer(self, answer: Answer) -> None:
        status, content_type, body = answer
        self.connection.settimeout(RESPONSE_S)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if self.command == "POST":  # closing before the body was read would take the answer back
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read(4096):
                pass

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def log_message(self, format: str, *args: Any) -> None:
        """A probe a second is no news."""


class _Bounded(io.RawIOBase):
    """What a client sends, within `REQUEST_S` and `REQUEST_BYTES_MAX` altogether."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_S
        self._left = REQUEST_BYTES_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0 or self._left <= 0:
            raise TimeoutError("too slow or too long")
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count
