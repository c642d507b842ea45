"""`streamer demo` as a user runs it: a process, its output, its exit status, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services import Kafka

STREAMER = [sys.executable, "-c", "from streamer.cli import main; main()"]
COMMAND = [*STREAMER, "demo"]
START_S = 120.0
FIRST_PREDICTION_S = 45.0
"""Three times what is promised on an idle machine: here other tests may run at the same time."""


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=240, check=False)


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def check(summary: dict[str, Any]) -> None:
    assert summary["accounted"]
    assert summary["produced"] == summary["predicted"] + summary["dead_lettered"] + summary["skipped"]
    assert summary["undelivered"] == 0
    assert min(summary["predicted"], summary["dead_lettered"], summary["skipped"]) > 0
    assert 0 < summary["first_prediction_s"] < FIRST_PREDICTION_S
    assert summary["events_per_s"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert 0 < summary["cache"]["hit_rate"] < 1
    assert summary["batch"]["mean"] >= 1
    assert sum(summary["batch"]["by_reason"].values()) > 0


def test_demo_accounts_for_every_event_on_its_own_broker() -> None:
    summary = summary_of(demo("--seconds", "5", "--rate", "100", "--json"))
    check(summary)
    assert summary["produced"] == pytest.approx(500, rel=0.3)
    assert summary["broker"].startswith("mock: no isolation, nothing kept")
    assert summary["device"] in ("cpu", "cuda")


def test_demo_accounts_for_every_event_on_real_kafka(kafka: Kafka) -> None:
    topics = ["topics", "apply", "lead-scoring", "sales-forecast", "ticket-routing"]  # this broker makes none by itself
    subprocess.run([*STREAMER, *topics, "--set", f"kafka.bootstrap_servers={kafka.bootstrap}"], check=True)
    summary = summary_of(demo("--seconds", "5", "--rate", "100", "--json", "--bootstrap", kafka.bootstrap))
    check(summary)
    assert summary["repeated"] == 0  # a reader of committed records sees no outcome twice
    assert summary["broker"] == f"Kafka ({kafka.bootstrap})"


def test_a_redis_that_does_not_answer_is_told_at_once() -> None:
    done = demo("--redis", "redis://127.0.0.1:1", "--seconds", "5")
    assert done.returncode == 69
    assert "--redis: no answer" in done.stderr


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed demo cannot remove what it wrote
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            wait_until(lambda: len(offspring(process.pid)) >= 4)  # broker, Redis, two workers
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_with_a_summary(running: subprocess.Popen[str]) -> None:
    assert running.stdout
    while "predicted" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "every event" in out
    assert "streamer check" in out


def test_nothing_outlives_a_killed_demo(running: subprocess.Popen[str]) -> None:
    children = offspring(running.pid)
    running.kill()
    running.wait()
    wait_until(lambda: not any(alive(pid) for pid in children))


def test_a_worker_that_dies_ends_the_demo_and_its_log_is_told(running: subprocess.Popen[str]) -> None:
    workers = [pid for pid in offspring(running.pid) if cmdline(pid)[-1:] == ["demo"]]
    os.kill(workers[0], signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    log = Path(errors.partition("ended with -9; its log, ")[2].partition(",")[0])
    assert log.is_file()


def offspring(pid: int) -> list[int]:
    """The processes that `pid` has started itself."""
    return [child for child in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(child) == pid]


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cmdline(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not what():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)
