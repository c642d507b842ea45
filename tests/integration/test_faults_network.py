"""The network loses, holds, repeats and refuses: rows 8 and 9 of the fault matrix, on a real Kafka behind a proxy.

The oracle is that of `Stream` (every record read again: lost, duplicated, reordered, wrong) and, for transactions, the
broker's own logs: each committed transaction holds exactly the outcomes that its positions stand for.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import ambiguous
from tests.faults.ambiguous import Ambiguity, verdict
from tests.faults.process import WorkerProcess, cpu_s
from tests.faults.proxied import proxied_kafka
from tests.faults.proxy import Proxy
from tests.faults.stream import Stream
from tests.faults.wire import Api, Duplicate, Hold, Lose, Rule
from tests.services import Kafka

NAME = "kafka.streamer.test"
"""A host name that nobody but the workers of one test knows, while the test likes."""
APIS = (
    Api.INIT_PRODUCER_ID,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
)
ANSWERS = 600  # between two faults: about a second of the stream
OUTAGE_S = 6.0
RECOVERY_S = 10.0
IDLE_CPU = 0.35  # what a worker may use while nothing comes through, of what a loop beside it gets that never rests
RESTLESS = (sys.executable, "-c", "while True: pass")
QUICK = {"socket.timeout.ms": "2000"}

Broker = tuple[Kafka, Proxy, Proxy]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def served() -> Iterator[Broker]:
    """A broker, a proxy that it advertises by address, and one by a name that does not resolve here."""
    with proxied_kafka("127.0.0.1", NAME) as (kafka, (proxy, named)):
        yield kafka, proxy, named


@pytest.fixture
def broker(served: Broker) -> Iterator[Broker]:
    yield served
    for proxy in served[1:]:
        proxy.heal()
        proxy.deliver()
        proxy.reset()


# -- row 8: done, and the answer is lost; asked, and it comes later


@pytest.mark.slow
@pytest.mark.parametrize("then", ["close", "silent"])
def test_a_lost_answer_to_any_request_of_a_transaction(broker: Broker, tmp_path: Path, then: str) -> None:
    """Fault: the broker does what it is asked and its answer is lost, for each request that a transaction consists of;
    the connection is reset, or stays silent. Expected: the client asks again, or the engine begins anew and
    `committed()` decides; exactly once, whole transactions. Oracle: every record, and the broker's logs."""
    result = each_request(broker, tmp_path, lambda: Lose(then))
    assert result == exact(len(APIS)), result


@pytest.mark.slow
@pytest.mark.parametrize("then", ["close", "silent"])
def test_a_late_request_of_any_kind(broker: Broker, tmp_path: Path, then: str) -> None:
    """Fault: a request comes only after its client has sent it again, or has given up and begun a later transaction,
    whose records are with the broker. Expected and oracle as above: no request may touch a transaction that is not its
    own. A late InitProducerId takes the transactional id from whoever has it: then the process leaves, to be started
    again."""
    result = each_request(broker, tmp_path, lambda: Hold(Api.PRODUCE, seconds=8, then=then))
    assert result == exact(len(APIS)), result


@pytest.mark.slow
def test_a_request_that_arrives_twice(broker: Broker, tmp_path: Path) -> None:
    """Fault: the network repeats a request. Expected: the second copy changes nothing. Oracle as above."""
    result = each_request(broker, tmp_path, Duplicate)
    assert result == exact(len(APIS)), result


@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.slow)])
def test_ambiguous_ends_of_transactions(
    broker: Broker, tmp_path: Path, protocol: str, record_property: Callable[[str, object], None]
) -> None:
    """Fault: the Jepsen case among others. EndTxn is lost on its way back, or held until the same transactional id has
    the records of a later transaction with the broker, and delivered then. Expected: exactly once, and no transaction
    is torn; the late end is refused, as its epoch is over. Oracle: every record, the broker's logs, and its answers to
    what came late. `python -m tests.faults.ambiguous --count 100` is the long run of this."""
    kafka, proxy, _ = broker
    result = ambiguous.run(kafka, proxy, tmp_path, len(ambiguous.ACTIONS), protocol=protocol)
    record_property("recovery_p99_s", result.recovery_p99_s)
    assert result.exact, result
    assert result.late == 3, "the late ends have arrived"
    assert result.late_obeyed == 0, "and were refused"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic"])
def test_a_small_socket_timeout_makes_the_client_repeat_by_itself(
    broker: Broker, tmp_path: Path, protocol: str
) -> None:
    """Fault: as before, with a client that gives up on a silent line after a second and asks again inside of its call,
    so that the engine sees a success. Expected: that it was repeated is noticed all the same. Oracle as before."""
    kafka, proxy, _ = broker
    client = {"socket.timeout.ms": "1000"}
    result = ambiguous.run(kafka, proxy, tmp_path, 6, client=client)
    assert result.exact, result
    assert (result.late, result.late_obeyed) == (3, 0)


@pytest.mark.slow
def test_a_client_that_logs_no_closed_connection_is_no_less_careful(broker: Broker, tmp_path: Path) -> None:
    """Fault: as before; `log.connection.close = false` makes librdkafka say nothing at all of it. Oracle as before."""
    kafka, proxy, _ = broker
    result = ambiguous.run(kafka, proxy, tmp_path, 4, client={"log.connection.close": "false"})
    assert result.exact, result
    assert (result.late, result.late_obeyed) == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "complaint"), [("deaf", "torn"), ("sure", "lost")])
def test_what_is_wrong_about_an_ambiguous_end_is_noticed(
    broker: Broker, tmp_path: Path, bug: str, complaint: str
) -> None:
    """Planted: a producer goes on after its end was sent twice; an unclear commit is taken for one that happened.
    Oracle: the same oracle complains."""
    kafka, proxy, _ = broker
    result = ambiguous.run(kafka, proxy, tmp_path, 6, bug=bug)
    assert getattr(result, complaint) > 0, result


class Supervised:
    """One worker of a stream, started again whenever it asks for it (75)."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._worker: WorkerProcess | None = None

    def answer(self, records: int) -> None:
        """Wait until so many more records are answered."""
        want = sum(self._stream.committed().values()) + records
        deadline = time.monotonic() + 60
        while sum(self._stream.committed().values()) < want:
            assert time.monotonic() < deadline, (
                f"no {records} more answers\n{self._worker and self._worker.log()[-3000:]}"
            )
            self.keep()
            time.sleep(0.05)

    def keep(self) -> None:
        """See that there is one."""
        if self._worker is not None and not self._worker.alive():
            assert self._worker.wait(0) == 75, self._worker.log()[-3000:]
            self._worker = None
        self._worker = self._worker or self._stream.start("a", client=QUICK)


def each_request(broker: Broker, folder: Path, action: Callable[[], Lose | Hold | Duplicate]) -> Ambiguity:
    """Hit every kind of request once under a stream of one worker."""
    kafka, proxy, _ = broker
    with Stream(kafka, folder, via=proxy.address, broken_every=50) as stream:
        worker = Supervised(stream)
        seconds, rules = [], []
        for api in APIS:
            rule = proxy.add(Rule(api, action(), client=stream.group))
            worker.keep()
            at = rule.wait()
            worker.answer(1)
            seconds.append(time.monotonic() - at)
            rules.append(rule)
            worker.answer(ANSWERS)
        return verdict(stream, stream.finish(), seconds, rules)


def exact(injected: int) -> object:
    """Equals what has no complaint after so many faults."""

    class Exact:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Ambiguity) and other.exact and other.injected == injected

    return Exact()


# -- row 9: a bad network


OUTAGES: dict[str, Callable[[Proxy], None]] = {
    "silent both ways": Proxy.silence,
    "silent towards the broker": lambda proxy: proxy.silence("up"),
    "silent towards the worker": lambda proxy: proxy.silence("down"),
    "half open": Proxy.half_open,
    "resets": Proxy.refuse,
}


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_waited_for_without_haste_and_recovered_from(
    broker: Broker, tmp_path: Path, outage: str, record_property: Callable[[str, object], None]
) -> None:
    """Fault: no byte passes in both ways or in one; every connection is half open; every connection is reset at once.
    Expected: the workers stay, use next to no CPU, and have answered all that was waiting within 10 s of the end of it;
    exactly once. Oracle: the kernel's count of CPU time, the clock, every record, the broker's logs."""
    _, proxy, _ = broker
    with calm_stream(broker, tmp_path) as stream:
        cpu = outage_of(stream, lambda: OUTAGES[outage](proxy))
        proxy.heal()
        recovery_s = stream.catch_up()
        finish_exactly(stream)
    record_property("recovery_s", recovery_s)
    record_property("cpu", cpu)
    print(f"{outage}: recovered after {recovery_s:.1f} s, {cpu:.2f} of a loop's CPU meanwhile")
    assert cpu < IDLE_CPU
    assert recovery_s < RECOVERY_S


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad",
    [{"loss": 0.05}, {"bytes_per_s": 1_000_000 / 8}, {"latency_s": 0.1}, {"cut_after": 200_000}],
    ids=["5 % lost", "1 Mbit/s", "100 ms", "cut in mid-answer"],
)
def test_a_bad_line_slows_and_harms_nothing(broker: Broker, tmp_path: Path, bad: dict[str, float]) -> None:
    """Fault: one in twenty pieces comes as late as TCP repeats it (200 ms and more, and all behind it); all connections
    share 1 Mbit/s; every byte is 100 ms late; every connection is cut in the middle of an answer after 200 kB.
    Expected: answers go on, all of them within 10 s of the end of it; exactly once. Oracle: every record, the broker's
    logs. (The proxy does this, as iptables and tc are not everywhere and need root.)"""
    _, proxy, _ = broker
    with calm_stream(broker, tmp_path, rate=200) as stream:
        for name, value in bad.items():
            setattr(proxy.link, name, value)
        if "cut_after" in bad:
            proxy.reset()
        stream.answer(ANSWERS // 2)
        proxy.heal()
        recovery_s = stream.catch_up()
        finish_exactly(stream)
    assert recovery_s < RECOVERY_S


@pytest.mark.slow
def test_connections_that_die_again_and_again(broker: Broker, tmp_path: Path) -> None:
    """Fault: all connections are reset twice a second for ten seconds. Expected: progress meanwhile or soon after;
    exactly once. Oracle: every record, the broker's logs."""
    _, proxy, _ = broker
    with calm_stream(broker, tmp_path) as stream:
        for _ in range(20):
            proxy.reset()
            time.sleep(0.5)
        recovery_s = stream.catch_up()
        finish_exactly(stream)
    assert recovery_s < RECOVERY_S


@pytest.mark.slow
def test_a_name_that_does_not_resolve_for_a_while(broker: Broker, tmp_path: Path) -> None:
    """Fault: the broker is known by a name only, the connections break, and the name is gone for a while, in the hosts
    file that the workers alone see. Expected: they stay, use next to no CPU, and go on within 10 s; exactly once.
    Oracle: the kernel's count of CPU time, the clock, every record, the broker's logs."""
    kafka, _, named = broker
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(NAME, named.port)
    options = {"before": functools.partial(see_hosts, str(hosts)), "settings": {"allow_insecure": True}}
    with Stream(kafka, tmp_path, via=f"{NAME}:{named.port}") as stream:
        for slot in ("a", "b"):
            stream.start(slot, **options)
        stream.answer(ANSWERS)

        def forget() -> None:
            hosts.write_text("127.0.0.1 localhost\n")
            named.reset()

        cpu = outage_of(stream, forget)
        hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
        recovery_s = stream.catch_up()
        finish_exactly(stream)
    assert cpu < IDLE_CPU
    assert recovery_s < RECOVERY_S


@pytest.mark.slow
def test_a_busy_loop_in_an_outage_would_be_noticed(broker: Broker, tmp_path: Path) -> None:
    """Planted: a worker in which a loop never rests. Oracle: the same measure of CPU time."""
    _, proxy, _ = broker
    with calm_stream(broker, tmp_path, before=spin) as stream:
        cpu = outage_of(stream, proxy.silence)
    print(f"a planted busy loop: {cpu:.2f} of a loop's CPU")
    assert cpu > IDLE_CPU


@contextlib.contextmanager
def calm_stream(broker: Broker, folder: Path, *, rate: int = 600, **options: object) -> Iterator[Stream]:
    """Two workers that have begun to answer, through the proxy."""
    kafka, proxy, _ = broker
    with Stream(kafka, folder, rate=rate, via=proxy.address) as stream:
        for slot in ("a", "b"):
            stream.start(slot, **options)
        for worker in stream.workers():
            worker.wait_for("partitions assigned")
        stream.answer(ANSWERS)
        yield stream


def outage_of(stream: Stream, begin: Callable[[], None]) -> float:
    """Begin an outage and let it last; the most CPU that a worker took in it, as a share of what a loop gets."""
    begin()
    time.sleep(1)  # what was under way is finished
    workers: list[WorkerProcess] = list(stream.workers())
    with subprocess.Popen(RESTLESS) as loop, contextlib.ExitStack() as stack:
        stack.callback(loop.kill)
        pids = [loop.pid, *(worker.pid for worker in workers)]
        before = [cpu_s(pid) for pid in pids]
        time.sleep(OUTAGE_S)
        assert all(worker.alive() for worker in workers), "it is waited for, not fled from"
        whole, *used = [cpu_s(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
    return max(used) / whole


def finish_exactly(stream: Stream) -> None:
    """End the stream: nothing lost, doubled, moved, torn or left open."""
    report = stream.finish()
    assert report.complaints == {}, report
    found = stream.audit()
    assert (found.torn, found.open) == ([], [])


def see_hosts(path: str) -> None:
    """From now on this process, and no other, has this file as its /etc/hosts."""
    new_mounts, new_user, bind, private = 0x20000, 0x10000000, 0x1000, 0x40000 | 0x4000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_mounts) != 0 and libc.unshare(new_mounts | new_user) != 0:
        raise OSError(ctypes.get_errno(), "this kernel gives no process a hosts file of its own (unshare)")
    for call in (
        lambda: libc.mount(b"none", b"/", None, private, None),
        lambda: libc.mount(path.encode(), b"/etc/hosts", None, bind, None),
    ):
        if call() != 0:
            raise OSError(ctypes.get_errno(), "cannot lay a file over /etc/hosts (mount)")


def spin() -> None:
    """Plant a loop that never rests, on a thread of its own: the owner's stands still while the client holds it."""

    def forever() -> None:
        while True:
            pass

    threading.Thread(target=forever, daemon=True).start()
