"""What the proxy reads of Kafka's protocol, and the rules that say what becomes of a request."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum

Framing = Callable[[asyncio.StreamReader], Awaitable[bytes]]
CHUNK = 65536


class Api(IntEnum):
    """Kinds of request, by the protocol's numbers."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    CONSUMER_GROUP_HEARTBEAT = 68


FIRST_FLEXIBLE = {
    Api.PRODUCE: 9,
    Api.INIT_PRODUCER_ID: 2,
    Api.ADD_PARTITIONS_TO_TXN: 3,
    Api.ADD_OFFSETS_TO_TXN: 3,
    Api.END_TXN: 3,
    Api.TXN_OFFSET_COMMIT: 3,
}
"""The requests that begin with a transactional id, and since which version their strings are compact."""


@dataclass(frozen=True)
class Request:
    """The head of a request, and the transactional id where it has one."""

    api: Api | int
    version: int
    correlation: int
    client: str
    transactional_id: str = ""


@dataclass(frozen=True)
class Lose:
    """The server does what it is asked; its answer is lost. Then the client's connection is reset (`close`), or stays,
    and nothing more comes over it (`silent`)."""

    then: str = "close"


@dataclass(frozen=True)
class Hold:
    """The request is on its way for long: until a later request `until` of the same transactional id has been answered
    (its client sees that answer after this one has been delivered), or for `seconds`; even if its client has left."""

    until: Api | None = None
    seconds: float = 30.0
    then: str = "close"


@dataclass(frozen=True)
class Duplicate:
    """The request arrives twice; one answer goes back."""


@dataclass
class Rule:
    """What becomes of requests of a kind; of any client, or one by its client id or its transactional id."""

    api: Api
    action: Lose | Hold | Duplicate
    client: str = ""
    transactional_id: str = ""
    left: int = 1
    answers: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _hit: threading.Event = field(default_factory=threading.Event)

    def means(self, request: Request) -> bool:
        return (
            self.left > 0
            and request.api == self.api
            and self.client in ("", request.client)
            and self.transactional_id in ("", request.transactional_id)
        )

    def happened(self) -> None:
        """The answer is lost, the request is held, or sent twice."""
        self.times.append(time.monotonic())
        self._hit.set()

    def wait(self, timeout_s: float = 30) -> float:
        """Wait for the first hit; returns its time on the monotonic clock."""
        if not self._hit.wait(timeout_s):
            raise AssertionError(f"no request fell under {self.api.name} {self.action} in {timeout_s} s")
        return self.times[0]


async def frame(reader: asyncio.StreamReader) -> bytes:
    """One request or response of Kafka with its length; empty at the end."""
    try:
        head = await reader.readexactly(4)
    except asyncio.IncompleteReadError:
        return b""
    return head + await reader.readexactly(struct.unpack(">i", head)[0])


async def chunk(reader: asyncio.StreamReader) -> bytes:
    """Whatever comes: for protocols that the proxy does not know."""
    return await reader.read(CHUNK)


def read_request(unit: bytes) -> Request:
    """The head of a framed request. Headers of version 1 and 2 are alike up to the client id."""
    number, version, correlation, length = struct.unpack_from(">hhih", unit, 4)
    at = 14 + max(0, length)
    client = unit[14:at].decode()
    api = Api(number) if number in set(Api) else number
    return Request(api, version, correlation, client, _transactional_id(unit, at, api, version))


def response_to(unit: bytes) -> int:
    """The correlation id of a framed response."""
    return int(struct.unpack_from(">i", unit, 4)[0])


def error_of(answer: bytes) -> int:
    """The error code in an answer to EndTxn of a version that librdkafka speaks (1, no tags)."""
    return int(struct.unpack_from(">h", answer, 12)[0])


def _transactional_id(unit: bytes, at: int, api: Api | int, version: int) -> str:
    first_flexible = FIRST_FLEXIBLE.get(api)  # type: ignore[call-overload]
    if first_flexible is None:
        return ""
    if version < first_flexible:
        length = struct.unpack_from(">h", unit, at)[0]
        return unit[at + 2 : at + 2 + max(0, length)].decode()
    length = unit[at + 1] - 1  # after an empty list of tags; our ids are shorter than 127 bytes
    return unit[at + 2 : at + 2 + max(0, length)].decode()
