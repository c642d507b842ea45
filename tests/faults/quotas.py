"""Client quotas by the wire protocol: librdkafka has no call for them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

ALTER_CLIENT_QUOTAS = 49


def alter_quotas(bootstrap: str, client_id: str, quotas: Mapping[str, float | None]) -> None:
    """Set what a client may do, bytes a second by name; None removes it. Wants a broker without TLS.

    AlterClientQuotas version 0: KIP-546, and the message definitions in Kafka's sources.
    """
    ops = b"".join(_text(name) + struct.pack(">d?", value or 0.0, value is None) for name, value in quotas.items())
    entry = struct.pack(">i", 1) + _text("client-id") + _text(client_id) + struct.pack(">i", len(quotas)) + ops
    body = struct.pack(">i", 1) + entry + struct.pack(">?", False)
    request = struct.pack(">hhi", ALTER_CLIENT_QUOTAS, 0, 1) + _text("quotas") + body
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as line:
        line.sendall(struct.pack(">i", len(request)) + request)
        answer = _read(line, struct.unpack(">i", _read(line, 4))[0])
    _throttled, _entries, code = struct.unpack(">iih", answer[4:14])
    if code:
        raise RuntimeError(f"the broker refuses quotas: error {code}")


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _read(line: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = line.recv(size - len(got))
        if not part:
            raise ConnectionError("the broker has closed the line")
        got += part
    return got
