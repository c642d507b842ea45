"""A Redis, or something on the way to it, that answers byte by byte: each wait is short, their sum is not."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from streamer.cache.redis_client import connect
from streamer.clock import SystemClock
from streamer.features.reading import RedisFeatures
from tests.echo import features_of

TIMEOUT_MS = 40
BYTE_S = 0.01


class Drip(socketserver.BaseRequestHandler):
    """Greets like Redis, and then takes 20 s for a hash of one field."""

    def handle(self) -> None:
        while question := self.request.recv(65_536):
            answer = b"+OK\r\n" if b"SETNAME" in question else b"*2\r\n$5\r\nbonus\r\n$2000\r\n" + b"1" * 2000 + b"\r\n"
            for byte in answer:
                try:
                    self.request.sendall(bytes([byte]))
                except OSError:
                    return
                if b"SETNAME" not in question:
                    time.sleep(BYTE_S)


@pytest.fixture
def url() -> Iterator[str]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Drip) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_answer_that_drips_in_holds_nobody_up_and_opens_the_circuit(url: str) -> None:
    features = RedisFeatures(connect(url, TIMEOUT_MS), "w", SystemClock(), lambda count: None)
    began = time.monotonic()
    assert [features_of(features, "a") for _ in range(5)] == [[{}]] * 5
    assert time.monotonic() - began < 5, "the answer takes 20 s each time"
    assert features._circuit.state == "open"
