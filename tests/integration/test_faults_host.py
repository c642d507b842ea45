"""Faults of the machine and of the process: disks, clocks, memory, files, threads, model files, signals.

Rows 10, 11, 17, 22 and 23 of the fault matrix (`tests/faults/matrix.py`), on a real Kafka with real processes.
E1 is the oracle of `tests/faults/checker.py`: every record has exactly one outcome, in order.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message

from tests.faults import host
from tests.faults.process import WorkerProcess
from tests.faults.stream import Stream
from tests.faults.terms import stop_many, summary
from tests.services import Kafka, local_kafka, read_topic, unique
from tests.services.kafka_service import ENDS_EVERY_TRANSACTION

ANSWERS = 300
STOPS = 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_full_disk_costs_the_marks_and_an_alarm_and_no_answer(kafka: Kafka, tmp_path: Path) -> None:
    """Row 10. Fault: the disk where a worker keeps its state is full. Expected: it serves, with an alarm in its log.
    Oracle: E1, with a kill -9 in between."""
    state = tmp_path / "state"
    state.mkdir()
    with Stream(kafka, tmp_path) as stream:
        killed = stream.start(before=partial(host.full_disk, str(state)))
        stream.answer(ANSWERS)
        killed.kill()
        worker = stream.start(before=partial(host.full_disk, str(state)))
        stream.answer(ANSWERS)
        report = stream.finish()
        assert worker.stop() == 0
    assert report.complaints == {}, report
    for one in (killed, worker):
        (alarm,) = lines(one, "no attempt file")
        assert alarm["level"] == "error"
        assert "free the disk" in alarm["event"]


def test_a_worker_that_a_full_disk_ends_is_noticed(kafka: Kafka, tmp_path: Path) -> None:
    """Row 10, the planted bug: no marks, no service. The test above waits for answers, and none come."""
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start(before=partial(host.fatal_full_disk, str(tmp_path)))
        assert worker.wait(30) != 0
        assert sum(stream.committed().values()) == 0


def test_a_full_log_disk_silences_a_worker_and_does_not_stop_it(kafka: Kafka, tmp_path: Path) -> None:
    """Row 10. Fault: no line fits into the log any more. Expected: it serves on and drains. Oracle: E1 and exit 0."""
    size = 200_000
    (tmp_path / "0-a.log").write_bytes(b"x" * size)
    with Stream(kafka, tmp_path, broken_every=20) as stream:
        worker = stream.start(before=partial(host.files_end_at, size))
        stream.answer(ANSWERS)
        report = stream.finish()
        assert worker.stop() == 0
    assert report.complaints == {}, report
    assert worker.log() == "x" * size


def test_a_broker_whose_disk_is_full_is_waited_for(tmp_path: Path) -> None:
    """Row 10. Fault: the broker cannot write any more and halts. Expected: the worker waits, and goes on when
    the broker is back. Oracle: E1. A broker of its own: it ends."""
    with (
        local_kafka(version=ENDS_EVERY_TRANSACTION) as kafka,
        Stream(kafka, tmp_path, partitions=2, rate=200) as stream,
    ):
        worker = stream.start()
        stream.answer(ANSWERS)
        broker = kafka.process._child  # type: ignore[attr-defined]
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (1024, 1024))
        broker.wait(60)
        kafka.kill()
        time.sleep(1)
        kafka.start()
        stream.answer(ANSWERS)
        report = stream.finish()
        assert worker.stop() == 0
    assert report.complaints == {}, report


def test_a_clock_that_jumps_an_hour_changes_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """Row 11. Fault: the wall clock jumps an hour ahead, then two back, under a worker with a latency goal. Expected:
    no time-out, no rebalance, no stall. Oracle: E1, answers between the jumps, the log."""
    with Stream(kafka, tmp_path) as stream:
        goal = {"batch": {"latency_goal_ms": 200, "items_max": 64}}
        worker = stream.start(process=host.ShiftedClockProcess, settings=goal)
        stream.answer(ANSWERS)
        for seconds in (3600, -3600, 0):
            worker.jump(seconds)  # type: ignore[attr-defined]
            time.sleep(0.5)
            stream.answer(ANSWERS)
        report = stream.finish()
        assert worker.stop() == 0
        hours = {hour(message) for message in read_topic(kafka.bootstrap, stream.target)}
    assert report.complaints == {}, report
    assert len(hours) >= 3, "the clock did jump"
    assert "partitions lost" not in worker.log()
    assert "unclear" not in worker.log()


def test_waits_on_the_wall_clock_are_noticed(kafka: Kafka, tmp_path: Path) -> None:
    """Row 11, the planted bug: the engine's waits are counted on the wall clock. After a jump back no answers come."""
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start(process=host.ShiftedClockProcess, before=host.wall_clock)
        stream.answer(ANSWERS)
        worker.jump(-3600)  # type: ignore[attr-defined]
        time.sleep(0.5)
        with pytest.raises(AssertionError, match="more answers"):
            stream.answer(10 * ANSWERS, timeout_s=8)


def test_a_batch_longer_than_the_poll_interval_evicts_nobody(kafka: Kafka, tmp_path: Path) -> None:
    """Row 5. Fault: the model takes longer for a batch than max.poll.interval.ms allows between two polls. Expected:
    the group is served meanwhile, and nobody is evicted. Oracle: E1 and the log."""
    with Stream(kafka, tmp_path) as stream:
        long = host.at_batch(5, partial(time.sleep, 6.0))
        worker = stream.start(before=long, client={"max.poll.interval.ms": "4000"})
        stream.answer(10 * ANSWERS)
        report = stream.finish()
        assert worker.stop() == 0
    assert report.complaints == {}, report
    assert "partitions lost" not in worker.log()
    assert len(lines(worker, "partitions assigned")) == 1


def test_the_kernel_kills_a_worker_for_its_memory(kafka: Kafka, tmp_path: Path) -> None:
    """Row 17. Fault: a worker grows beyond its memory limit and the kernel ends it. Expected: the next one of its slot
    goes on. Oracle: E1, and that it was the limit."""
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(host.memory_cgroup(unique("streamer"), 256 << 20))
        except OSError:
            pytest.skip("limits of memory need root and cgroup v1")
        stream = stack.enter_context(Stream(kafka, tmp_path))
        greedy = stream.start(before=host.at_batch(20, host.eat_memory))
        (group / "cgroup.procs").write_text(str(greedy._process.pid))
        assert greedy.wait(60) == -signal.SIGKILL
        assert int((group / "memory.failcnt").read_text()) > 0
        stream.start()
        report = stream.finish()
    assert report.complaints == {}, report


def test_an_allocation_that_fails_costs_a_repetition(kafka: Kafka, tmp_path: Path) -> None:
    """Row 17. Fault: memory is refused once, in the middle of a batch. Expected: the batch is run again in halves.
    Oracle: E1, all of them predictions."""
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start(before=host.at_batch(5, host.run_out_of_memory))
        stream.answer(ANSWERS)
        report = stream.finish()
        assert worker.stop() == 0
    assert report.complaints == {}, report


def test_a_worker_without_a_free_descriptor_serves_on(kafka: Kafka, tmp_path: Path) -> None:
    """Row 17. Fault: every file descriptor is taken. Expected: it serves on by the lines that it has, and drains.
    Oracle: E1 and exit 0."""
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start(before=host.at_batch(5, host.run_out_of_files))
        stream.answer(2 * ANSWERS)
        assert worker.stop() == 0
        stream.start()
        report = stream.finish()
    assert report.complaints == {}, report


def test_a_worker_that_may_start_no_thread_ends_with_a_reason(kafka: Kafka, tmp_path: Path) -> None:
    """Row 17. Fault: the limit of threads is reached. Expected: it ends with exit 75 and says which limit, or goes on.
    Oracle: E1 after the next start."""
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start(before=host.at_batch(5, host.run_out_of_threads))
        assert worker.wait(60) == 75, worker.log()[-3000:]
        assert "limit" in worker.log().splitlines()[-1]
        stream.start()
        report = stream.finish()
    assert report.complaints == {}, report


def test_positions_ahead_of_answers_are_noticed_after_a_stop(kafka: Kafka, tmp_path: Path) -> None:
    """Rows 17 and 23, the planted bug: positions run ahead of what was published. The oracle says what was lost."""
    with Stream(kafka, tmp_path) as stream:
        stops = stop_many(stream, 3, seed=1, bug="early offsets")
        report = stream.finish()
    assert len(stops) == 3
    assert "lost" in report.complaints, report


def test_sigterm_in_the_middle_of_the_work_is_clean_each_time(kafka: Kafka, tmp_path: Path) -> None:
    """Row 23. Fault: SIGTERM at random moments, again and again. Expected: exit 0 within the grace, nothing left.
    Oracle: E1. The long run: `python -m tests.faults.terms --count 1000`."""
    with Stream(kafka, tmp_path) as stream:
        stops = stop_many(stream, STOPS, seed=7, seconds_per_batch=0.05)
        report = stream.finish()
    print(summary(stops))
    assert report.complaints == {}, report
    assert [stop for stop in stops if not stop.clean] == []


@pytest.mark.parametrize("point", ["before engine.assigned", "after engine.revoked"])
def test_a_signal_inside_a_rebalance_is_kept_for_after_it(kafka: Kafka, tmp_path: Path, point: str) -> None:
    """Row 23. Fault: SIGINT inside a callback of the client. Expected: exit 0 within the grace. Oracle: E1."""
    with Stream(kafka, tmp_path) as stream:
        worker = stream.start(die_at=(point, 1), how=signal.SIGINT)
        if "revoked" in point:
            stream.answer(ANSWERS)
        other = stream.start("b")
        assert worker.wait(25) == 0, worker.log()[-2000:]
        report = stream.finish()
        assert other.stop() == 0
    assert report.complaints == {}, report


def test_a_stuck_loop_fails_liveness_and_a_broker_that_is_away_does_not(kafka: Kafka, tmp_path: Path) -> None:
    """Issue: a stuck loop fails liveness, a broker outage does not. Fault: the owner thread hangs; the broker freezes
    for longer than the probe's patience. Oracle: /livez of each, and E1 for what was served."""
    patience_s = 8.0
    with Stream(kafka, tmp_path, partitions=2) as stream:
        worker = stream.start("a", before=partial(host.stale_after, patience_s))
        worker.wait_for("partitions assigned")
        stuck = stream.start("b", before=partial(host.stuck_after, 2.0, 5))
        stuck.wait_for("partitions assigned")
        assert any(livez(stuck) == 503 for _ in every(0.2, 30))
        stuck.kill()
        stream.answer(ANSWERS)
        kafka.pause()
        try:
            seen = {livez(worker) for _ in every(0.5, 1.5 * patience_s)}
        finally:
            kafka.resume()
        report = stream.finish()
        assert worker.stop() == 0
    assert seen == {200}
    assert report.complaints == {}, report


def hour(prediction: Message) -> str:
    """In which hour it says that it was made."""
    return str(json.loads(prediction.value() or b"")["produced_at"][:13])


def lines(worker: WorkerProcess, text: str) -> list[dict[str, Any]]:
    """The lines of a worker's log whose event begins with this."""
    found = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"].startswith(text)]


def livez(worker: WorkerProcess) -> int:
    """What the liveness probe of a worker says."""
    (port,) = {line["http_port"] for line in lines(worker, "model is warm")}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def every(step_s: float, seconds: float) -> Iterator[None]:
    """Come back again and again, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(step_s)
