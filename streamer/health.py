"""Probes and metrics over HTTP, on a daemon thread.

Live means that the loop turns, whatever the broker does: a restart cures a stuck loop and nothing else, and
restarting every worker while the broker is away would only make its return harder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import ThreadingWSGIServer

from streamer.clock import Clock, SystemClock
from streamer.errors import BadConfig
from streamer.metrics import Metrics

STALE_S = 60.0
"""A loop that has not turned for this long is stuck: its longest lawful step, a revoke or a commit, takes seconds."""

Answer = tuple[str, str, bytes]  # status, content type, body


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
        """The group has told this replica its partitions, be they none."""
        self._assigned = True

    def left(self) -> None:
        """This replica is leaving its group."""
        self._assigned = False

    def live(self) -> bool:
        """Whether the loop turns, once it has begun to: a model may load, a broker be waited for, at length."""
        return self._beat is None or self._clock.now() - self._beat < STALE_S

    def started(self) -> bool:
        """Whether the model is warm."""
        return self._warm

    def ready(self) -> bool:
        """Whether records are served."""
        return self._warm and self._assigned


class HealthServer:
    """Serves `/livez`, `/readyz`, `/startupz` and `/metrics`, and the Open Inference Protocol's names of them."""

    def __init__(self, host: str, port: int, health: Health, metrics: Metrics) -> None:
        """Bind.

        Raises:
            BadConfig: the port is taken or not ours to take.
        """
        self._metrics = metrics
        self._probes: dict[str, Callable[[], bool]] = {
            "/livez": health.live,
            "/readyz": health.ready,
            "/startupz": health.started,
            "/v2/health/live": health.live,
            "/v2/health/ready": health.ready,
        }
        try:
            self._server = make_server(host, port, self._app, ThreadingWSGIServer, handler_class=_Quiet)
        except OSError as error:
            raise BadConfig(
                f"cannot serve probes on {host}:{port}: {error.strerror or error}; "
                "set http.port to a free port (0: any), or http.host to an address of this machine"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port that is served; that of the system's choice when 0 was asked for."""
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

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, content_type, body = self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [body if environ["REQUEST_METHOD"] != "HEAD" else b""]

    def _answer(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"use GET\n"
        if path == "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, self._metrics.text()
        probe = self._probes.get(path)
        if probe is None:
            return "404 Not Found", "text/plain", f"there is {', '.join(self._probes)} and /metrics\n".encode()
        return ("200 OK", "text/plain", b"ok\n") if probe() else ("503 Service Unavailable", "text/plain", b"no\n")


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A probe a second is no news."""
