"""A TCP proxy between a client and a server, which breaks what a network breaks, on request.

It knows Kafka's frames, so that a fault can hit one kind of request: `proxy.add(Rule(Api.END_TXN, Lose()))`. Nothing is
rewritten: the broker advertises the proxy's port on a listener of its own. Any other protocol passes as bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Self

from tests.faults.link import Link
from tests.faults.wire import Api, Duplicate, Framing, Hold, Lose, Request, Rule, frame, read_request, response_to

ANSWER_S = 1.0
"""How long the answer to a request may take that is delivered late, or whose client has left."""


class Proxy:
    """Listens at `port` on loopback while it is entered, and hands on to `upstream` (host and port)."""

    def __init__(self, upstream: tuple[str, int], *, port: int = 0, framing: Framing = frame, seed: int = 0) -> None:
        self.upstream = upstream
        self.port = port
        self.framing = framing
        self.link = Link(random.Random(seed))
        self.seen: Counter[Api | int] = Counter()
        self.accepted = 0
        self.rules: list[Rule] = []
        self.held: list[Held] = []
        self.connections: set[Connection] = set()
        self.refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # -- faults, from any thread

    def add(self, rule: Rule) -> Rule:
        """From now on, requests that the rule means suffer from it."""
        self.rules.append(rule)
        return rule

    def silence(self, *ways: str) -> None:
        """Nothing gets through, `up` to the server, `down` to the client, or both; nobody is told. What is on its way
        arrives after `heal`, as TCP repeats it."""
        for way in ways or ("up", "down"):
            self._call(self.link.open[way].clear)

    def refuse(self) -> None:
        """Every connection is reset, and every new one at once."""
        self.refusing = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection, on both sides."""
        self._call(lambda: [connection.reset() for connection in list(self.connections)])

    def half_open(self) -> None:
        """The server's side of every connection is gone, and the client is never told."""
        self._call(lambda: [connection.lose_server() for connection in list(self.connections)])

    def heal(self) -> None:
        """End all faults but those of rules that have hit already."""
        self.refusing = False
        self.rules.clear()
        self._call(self.link.heal)

    def deliver(self) -> None:
        """Let everything that is held go on its way now."""
        self._call(lambda: [held.go.set() for held in self.held])

    # -- in the loop

    def matching(self, request: Request) -> Rule | None:
        """The rule that this request falls under; it counts as used."""
        for rule in list(self.rules):
            if rule.means(request):
                rule.left -= 1
                if rule.left == 0:
                    self.rules.remove(rule)
                return rule
        return None

    async def _listen(self) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._accept(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the sockets are closed in the loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            self.link.reset(writer)
            return
        try:
            server = await asyncio.open_connection(*self.upstream)
        except OSError:  # the server is down: the client is refused, too
            self.link.reset(writer)
            return
        connection = Connection(self, (reader, writer), server)
        self.connections.add(connection)
        try:
            await connection.serve()
        finally:
            self.connections.discard(connection)

    def _call(self, what: Callable[[], object]) -> None:
        async def call() -> None:
            what()

        self._do(call)

    def _do(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(30)


class Held:
    """A request that is on its way for long."""

    def __init__(self, rule: Rule, request: Request) -> None:
        self.rule = rule
        self.request = request
        self.since = time.monotonic()
        self.go = asyncio.Event()
        self.answered = asyncio.Event()

    def waits_for(self, request: Request) -> bool:
        """Whether the answer to `request` of a later time is what this was held for."""
        hold = self.rule.action
        return (
            isinstance(hold, Hold)
            and not self.go.is_set()
            and request.api == hold.until
            and request.transactional_id == self.request.transactional_id
        )


class Connection:
    """One client's connection and the one to the server that goes with it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._asked: dict[int, tuple[Request, Rule | None]] = {}
        self._held: dict[int, Held] = {}
        self._swallow: Counter[int] = Counter()
        self._muted = False
        self._up = proxy.link.line("up", self._to_server)
        self._down = proxy.link.line("down", self._to_client)

    async def serve(self) -> None:
        tasks = [asyncio.ensure_future(work) for work in (self._requests(), self._responses())]
        lines = [asyncio.ensure_future(line.run()) for line in (self._up, self._down)]
        try:
            await asyncio.wait(tasks)
            await self._down.end()
            await asyncio.gather(*lines)
        finally:
            self.reset()
            for task in [*tasks, *lines]:
                task.cancel()
            await asyncio.gather(*tasks, *lines, return_exceptions=True)

    def reset(self) -> None:
        self._proxy.link.reset(self._to_client)
        self._proxy.link.reset(self._to_server)

    def lose_server(self) -> None:
        self._muted = True
        self._proxy.link.reset(self._to_server)

    async def _requests(self) -> None:
        """Client to server. A request that is held holds those behind it on its connection, as in TCP."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while unit := await self._proxy.framing(self._from_client):
                await self._request(unit)
        with contextlib.suppress(TimeoutError):  # what the client has sent arrives, though it has left
            await asyncio.wait_for(self._nothing_out(), ANSWER_S)
        await self._up.end()

    async def _nothing_out(self) -> None:
        while self._asked:
            await asyncio.sleep(0.005)

    async def _request(self, unit: bytes) -> None:
        if self._proxy.framing is not frame:
            await self._up.put(unit)
            return
        request = read_request(unit)
        self._proxy.seen[request.api] += 1
        rule = self._proxy.matching(request)
        self._asked[request.correlation] = request, rule
        if rule is not None and isinstance(rule.action, Hold):
            await self._hold(rule, request, rule.action)
        if rule is not None and isinstance(rule.action, Duplicate):
            self._swallow[request.correlation] += 1
            await self._up.put(unit)
            rule.happened()
        await self._up.put(unit)

    async def _hold(self, rule: Rule, request: Request, hold: Hold) -> None:
        held = Held(rule, request)
        self._held[request.correlation] = held
        self._proxy.held.append(held)
        self._part(hold.then)
        rule.happened()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(held.go.wait(), hold.seconds)
        held.go.set()

    async def _responses(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while unit := await self._proxy.framing(self._from_server):
                await self._response(unit)
        self._asked.clear()
        if not self._muted:
            await self._down.end()

    async def _response(self, unit: bytes) -> None:
        if self._proxy.framing is not frame:
            await self._down.put(unit)
            return
        correlation = response_to(unit)
        if self._swallow[correlation]:
            self._swallow[correlation] -= 1
            return
        request, rule = self._asked.pop(correlation)
        if (late := self._held.pop(correlation, None)) is not None:
            late.rule.answers.append(unit)
            late.answered.set()
            self._proxy.held.remove(late)
        if rule is not None and isinstance(rule.action, Lose):
            self._part(rule.action.then)
            self._muted = True
            rule.happened()
        for held in [one for one in self._proxy.held if one.waits_for(request)]:
            held.go.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held.answered.wait(), ANSWER_S)
        if not self._muted:
            await self._down.put(unit)

    def _part(self, then: str) -> None:
        """The client's side after a fault: it is told (`close`), or it waits for ever (`silent`)."""
        if then == "close":
            self._muted = True
            self._proxy.link.reset(self._to_client)
