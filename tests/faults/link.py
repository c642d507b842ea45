"""How bytes travel through the proxy: how late, how many a second, and whether at all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import struct

RTO_S = 0.2
"""What a lost segment costs: Linux repeats it no sooner, and twice as late each further time."""
QUEUE = 256


class Link:
    """The line that all connections of a proxy share, in two ways: `up` to the server and `down` to the client."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.heal()

    def heal(self) -> None:
        """Everything passes at once."""
        self.latency_s = 0.0
        self.bytes_per_s = math.inf
        self.loss = 0.0  # share of the units whose segment is lost, and so comes late
        self.cut_after: int | None = None  # bytes to a client after which its connection is reset
        self._free = {"up": 0.0, "down": 0.0}
        for way in self.open.values():
            way.set()

    def line(self, way: str, writer: asyncio.StreamWriter) -> Line:
        """One connection's share of one way."""
        return Line(self, way, writer)

    def due(self, way: str, size: int, now: float) -> float:
        """When so many bytes that are sent now have arrived."""
        if math.isinf(self.bytes_per_s):
            return now + self.latency_s + self._repeats_s()
        self._free[way] = max(now, self._free[way]) + size / self.bytes_per_s
        return self._free[way] + self.latency_s + self._repeats_s()

    def pieces(self, unit: bytes) -> list[bytes]:
        """A narrow line gives a receiver a little at a time, a hundredth of a second's worth."""
        if math.isinf(self.bytes_per_s):
            return [unit]
        size = max(1, int(self.bytes_per_s / 100))
        return [unit[at : at + size] for at in range(0, len(unit), size)]

    def reset(self, writer: asyncio.StreamWriter) -> None:
        """End a connection with RST: a close with nothing to linger for."""
        if writer.transport.is_closing():
            return
        held = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    def _repeats_s(self) -> float:
        late_s, rto_s = 0.0, RTO_S
        while self.loss and self._chance.random() < self.loss:
            late_s, rto_s = late_s + rto_s, 2 * rto_s
        return late_s


class Line:
    """One way of one connection: what is put in comes out in order, as late as the link says."""

    def __init__(self, link: Link, way: str, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._way = way
        self._writer = writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE)
        self._passed = 0

    async def put(self, unit: bytes) -> None:
        """Send; returns when there is room for more."""
        now = asyncio.get_running_loop().time()
        for piece in self._link.pieces(unit):
            await self._queue.put((self._link.due(self._way, len(piece), now), piece))

    async def end(self) -> None:
        """What was put arrives, then the other side sees the end."""
        await self._queue.put((0.0, b""))

    async def run(self) -> None:
        """Carry until the end. A receiver that has left gets nothing, and nobody minds."""
        while True:
            due, unit = await self._queue.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._link.open[self._way].wait()
            if not unit:
                self._writer.close()
                return
            if self._writer.transport.is_closing():
                continue
            with contextlib.suppress(ConnectionError):
                self._writer.write(self._within(unit))
                await self._writer.drain()
            if self._link.cut_after is not None and self._passed >= self._link.cut_after and self._way == "down":
                await asyncio.sleep(0.01)  # the bytes before the cut arrive
                self._link.reset(self._writer)

    def _within(self, unit: bytes) -> bytes:
        most = self._link.cut_after
        if most is None or self._way == "up":
            return unit
        unit = unit[: max(0, most - self._passed)]
        self._passed += len(unit)
        return unit
