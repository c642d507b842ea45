"""Three brokers that hold copies of each other's logs: one dies, freezes or stops, and every input still has exactly
one outcome, in order, every transaction is whole, and no worker needs to be started again.

A quick cut; `python -m tests.faults --only brokers` is the long run of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.faults.stream import Stream
from tests.faults.transactions import OFFSETS, STATES, Logs, coordinator_partition
from tests.services import Cluster, start_cluster

ANSWERS = 600
FROZEN_S = 6.0  # past the broker's session of 3 s

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with start_cluster() as brokers:
        yield brokers


def of_transactions(cluster: Cluster, stream: Stream) -> int:
    """The broker that coordinates the transactions of worker a."""
    return leader(cluster, STATES, f"{stream.group}.a")


def of_the_group(cluster: Cluster, stream: Stream) -> int:
    """The broker that keeps the group's positions."""
    return leader(cluster, OFFSETS, stream.group)


def kill(cluster: Cluster, victim: int) -> None:
    cluster.brokers[victim].kill()
    time.sleep(1)
    cluster.start(victim)


def freeze(cluster: Cluster, victim: int) -> None:
    cluster.brokers[victim].pause()
    time.sleep(FROZEN_S)
    cluster.brokers[victim].resume()
    cluster.wait_until_in_sync()


def roll(cluster: Cluster, victim: int) -> None:
    for number in range(len(cluster.brokers)):
        which = (victim + number) % len(cluster.brokers)
        cluster.brokers[which].stop()
        cluster.start(which)


Fault = Callable[[Cluster, int], None]
Victim = Callable[[Cluster, Stream], int]
CASES: Mapping[str, tuple[str, Fault, Victim]] = {
    "SIGKILL of the transactions' coordinator": ("classic", kill, of_transactions),
    "SIGKILL of the group's coordinator": ("consumer", kill, of_the_group),
    "SIGSTOP of the transactions' coordinator": ("consumer", freeze, of_transactions),
    "SIGSTOP of the group's coordinator": ("classic", freeze, of_the_group),
    "a rolling restart": ("classic", roll, of_the_group),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broker_of_three_goes_away_during_commits(cluster: Cluster, tmp_path: Path, name: str) -> None:
    protocol, fault, victim = CASES[name]
    with Stream(cluster, tmp_path, protocol=protocol, broken_every=50) as stream:
        workers = [stream.start("a"), stream.start("b")]
        stream.answer(ANSWERS)
        fault(cluster, victim(cluster, stream))
        stream.answer(ANSWERS)
        report = stream.finish()
        found = stream.audit()
        assert [worker.stop() for worker in workers] == [0, 0], "no worker had to be started again"
    assert report.complaints == {}, report
    assert (found.torn, found.open) == ([], [])
    assert found.committed > 0


def test_a_torn_transaction_is_noticed_where_all_is_exact_in_the_end(cluster: Cluster, tmp_path: Path) -> None:
    with Stream(cluster, tmp_path) as stream:
        stream.start("a", bug="apart")
        stream.answer(ANSWERS)
        report = stream.finish()
        found = stream.audit()
    assert report.complaints == {}, "the oracle of inputs and outcomes cannot see it"
    assert len(found.torn) > 0


def test_a_broker_that_comes_back_holds_what_it_has_missed(cluster: Cluster, tmp_path: Path) -> None:
    with Stream(cluster, tmp_path) as stream:
        cluster.brokers[0].kill()
        stream.start("a")
        stream.answer(ANSWERS)
        cluster.start(0)
        report = stream.finish()
        longest = max(len(list(Logs([path]).batches(stream.target, 0))) for path in cluster.data())
        assert len(list(Logs([cluster.data()[0]]).batches(stream.target, 0))) == longest > 0
    assert report.complaints == {}, report


def leader(cluster: Cluster, topic: str, name: str) -> int:
    count = len(Logs(cluster.data()).partitions(topic))
    return cluster.leader(topic, coordinator_partition(name, count))
