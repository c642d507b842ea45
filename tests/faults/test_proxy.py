"""The proxy does to the bytes what it says, and nothing when it is told nothing."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.proxy import Proxy
from tests.faults.wire import Api, Duplicate, Hold, Lose, Rule, chunk, read_request

Connect = Callable[..., "Client"]

SOON_S = 5.0


class Broker(socketserver.ThreadingTCPServer):
    """Answers every request with its correlation id, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[int, int]] = []


class Answering(socketserver.StreamRequestHandler):
    server: Broker

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, struct.error):
            while head := self.rfile.read(4):
                body = self.rfile.read(struct.unpack(">i", head)[0])
                request = read_request(head + body)
                self.server.asked.append((int(request.api), request.correlation))
                self.wfile.write(struct.pack(">iiih", 10, request.correlation, 0, 0))


class Client:
    """Speaks as a client of Kafka does, one request at a time."""

    def __init__(self, port: int, name: str = "me") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SOON_S)
        self._name = name.encode()

    def close(self) -> None:
        self._socket.close()

    def ask(self, api: Api, correlation: int, transactional_id: str = "t") -> None:
        text = transactional_id.encode()
        body = struct.pack(f">hhih{len(self._name)}s", api, 1, correlation, len(self._name), self._name)
        body += struct.pack(f">h{len(text)}s", len(text), text)
        self._socket.sendall(struct.pack(">i", len(body)) + body)

    def answer(self, timeout_s: float = SOON_S) -> int | None:
        """The correlation id of the next answer; None when there is no more."""
        self._socket.settimeout(timeout_s)
        answer = self.read(14)
        return int(struct.unpack_from(">i", answer, 4)[0]) if len(answer) == 14 else None

    def read(self, size: int) -> bytes:
        """So many bytes, or what there is before the end."""
        received = b""
        while len(received) < size and (more := self._socket.recv(size - len(received))):
            received += more
        return received

    def said(self, api: Api, correlation: int) -> int | None:
        self.ask(api, correlation)
        return self.answer()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", broker.server_address[1])) as between:
        yield between


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Connect]:
    """Makes clients of the proxy, and closes them in the end."""
    with contextlib.ExitStack() as clients:

        def connect(name: str = "me", port: int = proxy.port) -> Client:
            return clients.enter_context(contextlib.closing(Client(port, name)))

        yield connect


def wait_for(true) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_without_a_fault_all_passes(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert [client.said(Api.PRODUCE, number) for number in range(50)] == list(range(50))
    assert broker.asked == [(0, number) for number in range(50)]
    assert proxy.seen == {Api.PRODUCE: 50}


def test_a_rule_hits_only_what_it_means(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    rule = proxy.add(Rule(Api.END_TXN, Lose(), client="me", transactional_id="t"))
    other = connect("other")
    assert other.said(Api.END_TXN, 1) == 1
    client = connect()
    assert client.said(Api.PRODUCE, 2) == 2
    client.ask(Api.END_TXN, 3, "another")
    assert client.answer() == 3
    assert not rule.times
    client.ask(Api.END_TXN, 4)
    with pytest.raises(ConnectionResetError):
        client.answer()
    assert broker.asked[-1] == (26, 4), "it was done; only the answer is lost"
    assert connect().said(Api.END_TXN, 5) == 5, "once"


def test_a_silent_loss_says_nothing_for_ever(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    rule = proxy.add(Rule(Api.END_TXN, Lose("silent")))
    client = connect()
    client.ask(Api.END_TXN, 1)
    rule.wait()
    client.ask(Api.PRODUCE, 2)
    with pytest.raises(TimeoutError):
        client.answer(0.2)
    wait_for(lambda: broker.asked == [(26, 1), (0, 2)])


@pytest.mark.parametrize("then", ["close", "silent"])
def test_what_is_held_arrives_between_later_requests_though_its_client_has_left(
    broker: Broker, proxy: Proxy, then: str, connect: Connect
) -> None:
    rule = proxy.add(Rule(Api.END_TXN, Hold(Api.PRODUCE, then=then)))
    client = connect()
    client.ask(Api.END_TXN, 1)
    rule.wait()
    client.close()
    later = connect()
    assert later.said(Api.END_TXN, 2) == 2
    later.ask(Api.PRODUCE, 3, "another id")
    assert later.answer() == 3
    assert broker.asked == [(26, 2), (0, 3)]
    assert later.said(Api.PRODUCE, 4) == 4
    assert broker.asked == [(26, 2), (0, 3), (0, 4), (26, 1)], "before its later request was answered"
    assert len(rule.answers) == 1


def test_what_is_held_holds_what_comes_behind_it_and_is_let_go(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    rule = proxy.add(Rule(Api.END_TXN, Hold(then="silent")))
    client = connect()
    client.ask(Api.END_TXN, 1)
    client.ask(Api.PRODUCE, 2)
    rule.wait()
    with pytest.raises(TimeoutError):
        client.answer(0.2)
    assert broker.asked == []
    proxy.deliver()
    assert [client.answer(), client.answer()] == [1, 2]


def test_a_held_request_arrives_by_itself_after_its_time(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    proxy.add(Rule(Api.END_TXN, Hold(seconds=0.2, then="silent")))
    client = connect()
    began = time.monotonic()
    assert client.said(Api.END_TXN, 1) == 1
    assert time.monotonic() - began >= 0.2


def test_a_duplicate_is_done_twice_and_answered_once(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    proxy.add(Rule(Api.PRODUCE, Duplicate()))
    client = connect()
    assert [client.said(Api.PRODUCE, 1), client.said(Api.PRODUCE, 2)] == [1, 2]
    assert broker.asked == [(0, 1), (0, 1), (0, 2)]


@pytest.mark.parametrize(("ways", "arrives"), [(("up",), []), (("down",), [(0, 1)]), ((), [])])
def test_silence_keeps_what_is_on_its_way_until_it_heals(
    broker: Broker, proxy: Proxy, ways, arrives, connect: Connect
) -> None:
    client = connect()
    proxy.silence(*ways)
    client.ask(Api.PRODUCE, 1)
    with pytest.raises(TimeoutError):
        client.answer(0.2)
    assert broker.asked == arrives
    proxy.heal()
    assert client.answer() == 1


def test_a_flood_of_resets_ends_when_it_heals(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert client.said(Api.PRODUCE, 1) == 1
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.answer()
    with pytest.raises(ConnectionResetError):
        connect().answer()
    proxy.heal()
    assert connect().said(Api.PRODUCE, 2) == 2


def test_a_half_open_connection_swallows_and_a_new_one_works(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    client = connect()
    assert client.said(Api.PRODUCE, 1) == 1
    proxy.half_open()
    client.ask(Api.PRODUCE, 2)
    with pytest.raises(TimeoutError):
        client.answer(0.2)
    assert connect().said(Api.PRODUCE, 3) == 3
    assert broker.asked == [(0, 1), (0, 3)]


def test_latency_and_a_narrow_line_take_their_time(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    proxy.link.latency_s = 0.1
    began = time.monotonic()
    assert client.said(Api.PRODUCE, 1) == 1
    assert time.monotonic() - began >= 0.2, "there and back"
    proxy.heal()
    proxy.link.bytes_per_s = 100.0
    began = time.monotonic()
    assert client.said(Api.PRODUCE, 2) == 2
    assert time.monotonic() - began >= 0.3, "19 bytes there and 14 back"


def test_loss_makes_some_late_and_loses_none(proxy: Proxy, connect: Connect) -> None:
    client = connect()
    proxy.link.loss = 0.2
    times = []
    for number in range(20):
        began = time.monotonic()
        assert client.said(Api.PRODUCE, number) == number
        times.append(time.monotonic() - began)
    late = sum(seconds >= 0.2 for seconds in times)
    assert 0 < late < 20


def test_a_cut_ends_in_the_middle_of_an_answer(broker: Broker, proxy: Proxy, connect: Connect) -> None:
    proxy.link.cut_after = 20  # an answer has 14 bytes
    client = connect()
    assert client.said(Api.PRODUCE, 1) == 1
    client.ask(Api.PRODUCE, 2)
    assert len(client.read(6)) == 6, "a part of the second"
    with pytest.raises(ConnectionResetError):
        client.read(1)
    assert broker.asked == [(0, 1), (0, 2)]


def test_a_server_that_is_down_refuses(proxy: Proxy, broker: Broker, connect: Connect) -> None:
    broker.shutdown()
    broker.server_close()
    with pytest.raises(ConnectionResetError):
        connect().answer()


def test_other_protocols_pass_as_bytes(broker: Broker, connect: Connect) -> None:
    with Proxy(("127.0.0.1", broker.server_address[1]), framing=chunk) as proxy:
        client = connect(port=proxy.port)
        assert [client.said(Api.PRODUCE, number) for number in range(5)] == list(range(5))
        assert not proxy.seen


@pytest.mark.parametrize(
    ("api", "version", "rest"),
    [
        (Api.END_TXN, 1, b"\x00\x03a.b"),
        (Api.PRODUCE, 10, b"\x00\x04a.b"),
        (Api.INIT_PRODUCER_ID, 4, b"\x00\x04a.b"),
        (Api.TXN_OFFSET_COMMIT, 3, b"\x00\x04a.b"),
    ],
)
def test_transactional_ids_are_read_in_both_forms(api: Api, version: int, rest: bytes) -> None:
    body = struct.pack(">hhih2s", api, version, 7, 2, b"me") + rest
    request = read_request(struct.pack(">i", len(body)) + body)
    assert (request.api, request.correlation, request.client, request.transactional_id) == (api, 7, "me", "a.b")
