"""Processes die, freeze, move and meet; every input still has exactly one outcome, in order.

Real Kafka, real processes, a producer that writes on all the while. Sizes are constants: raise them for a long run.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.faults.process import WorkerProcess
from tests.faults.stream import PROTOCOLS, Stream
from tests.faults.worker_main import AT_LEAST_ONCE_POINTS, POINTS
from tests.services import Kafka, local_kafka
from tests.services.kafka_service import ENDS_EVERY_TRANSACTION

SLOTS = ("a", "b", "c")
RANDOM_KILLS = 8
SEED = 7
PAUSE_S = (0.3, 3.0)  # between two random kills
ANSWERS = 600  # between two faults: about a second of the stream
DEATHS = 6  # of the only broker

# A zombie wakes up after its session (3 s) and its transaction are over.
ZOMBIE = {"transaction.timeout.ms": "3000"}
FROZEN_S = 5.0
FREEZE_AT = (
    "after runner.finished",
    "after producer.begin_transaction",
    "after producer.produce",
    "after producer.send_offsets_to_transaction",
    "after producer.commit_transaction",
)

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_kill_9_at_every_step(kafka: Kafka, tmp_path: Path, protocol: str) -> None:
    with Stream(kafka, tmp_path, protocol=protocol) as stream:
        die_at_each(stream, POINTS)
        stream.start("a")
        report = stream.finish()
    assert report.complaints == {}, report


def test_kill_9_at_random_times_among_broken_records(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path, broken_every=7) as stream:
        kill_at_random(stream, RANDOM_KILLS)
        report = stream.finish()
        kinds = {one.outcome for one in stream.inputs()}
    assert report.complaints == {}, report
    assert kinds == {"prediction", "dead letter", "skip"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_from_one_worker_to_three_and_back(kafka: Kafka, tmp_path: Path, protocol: str) -> None:
    with Stream(kafka, tmp_path, protocol=protocol) as stream:
        one = stream.start("a")
        stream.answer(ANSWERS)
        two, three = stream.start("b"), stream.start("c")
        for worker in (two, three):
            worker.wait_for("partitions assigned")
        stream.answer(2 * ANSWERS)
        assert (one.stop(), two.stop()) == (0, 0)
        stream.answer(ANSWERS)
        report = stream.finish()
        assert three.stop() == 0
        computed = sum(worker.computed() for worker in (one, two, three))
    assert report.complaints == {}, report
    assert computed == report.inputs, "what moved was finished first, so nothing was computed twice"


@pytest.mark.parametrize("end", [pytest.param(Kafka.stop, marks=pytest.mark.slow), Kafka.kill])
def test_a_broker_restart_is_waited_for(kafka: Kafka, tmp_path: Path, end: Callable[[Kafka], None]) -> None:
    with Stream(kafka, tmp_path) as stream:
        workers = [stream.start("a"), stream.start("b")]
        stream.answer(ANSWERS)
        # The only broker of this version must not die between acknowledging a commit and writing its marks: see
        # ENDS_EVERY_TRANSACTION, and the test below. So the workers stand still while it ends what it has promised.
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        time.sleep(1)
        end(kafka)
        for worker in workers:
            worker.signal(signal.SIGCONT)
        time.sleep(2)
        kafka.start()
        stream.answer(2 * ANSWERS)
        report = stream.finish()
        assert [worker.stop() for worker in workers] == [0, 0]
    assert report.complaints == {}, report


@pytest.mark.slow
def test_the_only_broker_may_die_at_any_moment(tmp_path: Path) -> None:
    """Row 6. Fault: kill -9 of the only broker, again and again, whatever is under way. Oracle: E1."""
    chance = random.Random(5)
    with (
        local_kafka(version=ENDS_EVERY_TRANSACTION) as kafka,
        Stream(kafka, tmp_path, partitions=2, rate=200) as stream,
    ):
        workers = [stream.start("a"), stream.start("b")]
        for _ in range(DEATHS):
            stream.answer(ANSWERS)
            time.sleep(chance.uniform(0, 0.5))
            kafka.kill()
            kafka.start()
        stream.answer(ANSWERS)
        report = stream.finish()
        assert [worker.stop() for worker in workers] == [0, 0]
    assert report.complaints == {}, report


def test_zombies_are_refused(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path, partitions=12) as stream:
        zombies = [
            stream.start(f"z{number}", client=ZOMBIE, die_at=(point, 5), how=signal.SIGSTOP)
            for number, point in enumerate(FREEZE_AT)
        ]
        steady = stream.start("steady", client=ZOMBIE)
        wait_until(lambda: all(zombie.frozen() for zombie in zombies))
        time.sleep(FROZEN_S)
        stream.catch_up()
        for zombie in zombies:
            zombie.signal(signal.SIGCONT)
        stream.answer(5 * ANSWERS)
        report = stream.finish()
        for zombie in zombies:
            assert "partitions lost" in zombie.log()
            assert zombie.alive() or zombie.wait(0) == 75, zombie.log()[-3000:]
        assert steady.stop() == 0
    assert report.complaints == {}, report


def test_of_two_workers_with_one_slot_one_leaves(kafka: Kafka, tmp_path: Path) -> None:
    """Which of them, is a race: each new producer fences the other."""
    with Stream(kafka, tmp_path) as stream:
        both = [stream.start("same")]
        stream.answer(ANSWERS)
        both.append(stream.start("same"))
        until = time.monotonic() + 30
        while all(worker.alive() for worker in both) and time.monotonic() < until:
            time.sleep(0.1)
        left, stays = sorted(both, key=WorkerProcess.alive)
        assert left.wait(0) == 75
        stream.answer(ANSWERS)
        report = stream.finish()
        assert stays.stop() == 0
    assert "give each replica its own kafka.slot" in left.log()
    assert report.complaints == {}, report


def test_sigterm_drains_and_leaves_nothing_to_do_again(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path) as stream:
        first = stream.start("a", seconds_per_batch=0.2)
        stream.answer(ANSWERS)
        assert first.stop() == 0
        second = stream.start("b")
        report = stream.finish()
        assert second.stop() == 0
    assert report.complaints == {}, report
    assert first.computed() + second.computed() == report.inputs
    assert "these records are left" not in first.log()


def test_a_second_sigterm_leaves_at_once_and_safely(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path) as stream:
        hasty = stream.start("a", seconds_per_batch=3.0)
        stream.answer(1)
        hasty.signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        assert hasty.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 2, "it did not wait for the batch on the device"
        stream.start("a")
        report = stream.finish()
    assert report.complaints == {}, report


def test_at_least_once_may_repeat_and_never_loses(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path, broken_every=50) as stream:
        die_at_each(stream, AT_LEAST_ONCE_POINTS, delivery="at_least_once")
        stream.start("a", delivery="at_least_once")
        report = stream.finish()
    # The oracle has held every prediction_id against its source, so repeats of a record share theirs.
    assert set(report.complaints) == {"duplicated"}, report


@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.slow)])
def test_a_new_group_outlives_a_transaction_that_its_first_worker_left_open(
    kafka: Kafka, tmp_path: Path, protocol: str
) -> None:
    """Until it is aborted, the broker does not say where the group is; after that, the group is nowhere."""
    with Stream(kafka, tmp_path, protocol=protocol) as stream:
        point = "after producer.send_offsets_to_transaction"
        first = stream.start("a", die_at=(point, 1), client={"transaction.timeout.ms": "12000"})
        assert first.wait(30) == -signal.SIGKILL
        second = stream.start("b")
        report = stream.finish()
        assert second.stop() == 0
    assert report.complaints == {}, report


def test_a_session_timeout_that_the_broker_refuses_is_said(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start("a", client={"session.timeout.ms": "500", "heartbeat.interval.ms": "100"})
        assert worker.wait(30) == 78
    assert "set session.timeout.ms within" in worker.log()


def test_the_partitions_of_a_killed_worker_are_served_again_soon(
    kafka: Kafka, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with Stream(kafka, tmp_path) as stream:
        session = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "2000"}  # what a worker has by default
        killed, _ = stream.start("a", client=session), stream.start("b", client=session)
        for worker in stream.workers():
            worker.wait_for("partitions assigned")
        stream.answer(ANSWERS)
        killed.kill()
        recovery_s = stream.catch_up()
        report = stream.finish()
    record_property("recovery_s", recovery_s)
    print(f"recovered after {recovery_s:.1f} s")
    assert recovery_s < 10
    assert report.complaints == {}, report


@pytest.mark.parametrize(("bug", "complaint"), [("early offsets", "lost"), ("late offsets", "duplicated")])
def test_wrong_positions_are_noticed(kafka: Kafka, tmp_path: Path, bug: str, complaint: str) -> None:
    with Stream(kafka, tmp_path) as stream:
        die_at_each(stream, ["after sink.confirm", "before producer.commit_transaction"], slots=("a",), bug=bug)
        stream.start("a")
        report = stream.finish()
    assert complaint in report.complaints, report


def test_a_wrong_order_is_noticed(kafka: Kafka, tmp_path: Path) -> None:
    with Stream(kafka, tmp_path) as stream:
        stream.start("a", bug="backwards")
        stream.answer(ANSWERS)
        report = stream.finish()
    assert set(report.complaints) == {"reordered"}, report


def test_a_zombie_that_is_not_fenced_is_noticed(kafka: Kafka, tmp_path: Path) -> None:
    """It freezes where it is about to commit: no other commit of its own is out then, which would make it poll, and
    learn of its loss, before it goes on. Its transaction outlives the freeze, so that only the group could fence it."""
    with Stream(kafka, tmp_path) as stream:
        patient = {"transaction.timeout.ms": "60000"}
        zombie = stream.start("z", bug="no fence", die_at=("before sink.begin", 20), how=signal.SIGSTOP, client=patient)
        stream.start("steady")
        wait_until(zombie.frozen)
        time.sleep(FROZEN_S)
        stream.catch_up()
        zombie.signal(signal.SIGCONT)
        stream.answer(2 * ANSWERS)
        report = stream.finish()
    assert "duplicated" in report.complaints, report


def die_at_each(stream: Stream, points: Sequence[str], slots: Sequence[str] = SLOTS, **options: object) -> None:
    """Start a worker in each slot, one after the other, until one has died at every point."""
    left = [(point, 1 if "init" in point else 3 + number % 5) for number, point in enumerate(points)]
    running = {slot: stream.start(slot, die_at=left.pop(), **options) for slot in slots}
    deadline = time.monotonic() + 15 * len(points)
    while running:
        assert time.monotonic() < deadline, {slot: worker.plan.die_at for slot, worker in running.items()}
        for slot, worker in list(running.items()):
            if not worker.alive():
                assert worker.wait(0) == -signal.SIGKILL, worker.log()[-3000:]
                del running[slot]
                if left:
                    running[slot] = stream.start(slot, die_at=left.pop(), **options)
        time.sleep(0.05)


def kill_at_random(stream: Stream, kills: int) -> None:
    """Run two workers and kill one of them at a time, each followed at once by another of its slot."""
    chance = random.Random(SEED)
    running: dict[str, WorkerProcess] = {slot: stream.start(slot) for slot in ("a", "b")}
    stream.answer(ANSWERS)
    for _ in range(kills):
        time.sleep(chance.uniform(*PAUSE_S))
        slot = chance.choice(sorted(running))
        running[slot].kill()
        running[slot] = stream.start(slot)


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    """Wait for something that a worker does by itself."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
