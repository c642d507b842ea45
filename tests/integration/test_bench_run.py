"""`streamer bench` as a user runs it, on a real Kafka: a process, its report, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests.services import Kafka

COMMAND = [sys.executable, "-c", "from streamer.cli import main; main()", "bench"]


@pytest.fixture
def environment(kafka: Kafka, tmp_path: Path) -> dict[str, str]:
    own = {"STREAMER_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap, "STREAMER_ALLOW_INSECURE": "true"}
    return {**os.environ, **own, "XDG_CONFIG_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def left_behind(kafka: Kafka, worker: str) -> list[str]:
    """Topics and groups of a run that should be gone."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    groups = [group.group_id for group in admin.list_consumer_groups().result(15).valid]
    return [name for name in (*admin.list_topics(timeout=15).topics, *groups) if f"bench.{worker}." in name]


def test_every_event_is_accounted_for_and_nothing_stays(
    kafka: Kafka, environment: dict[str, str], source: str, tmp_path: Path
) -> None:
    words = ["mine.py:Scorer", "--saturate", "--rate", "200", "--events", "600", "--json"]
    done = subprocess.run(
        [*COMMAND, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    backlog, rate = said["runs"]
    for run, sent in ((backlog, 600), (rate, 604)):  # at a rate one more for each partition, to begin with
        counts = run["counts"]
        assert (counts["sent"], counts["predicted"], counts["lost"], counts["repeated"]) == (sent, sent, 0, 0)
    assert backlog["short"]  # no figure of it is worth a test
    assert {one["stage"] for one in rate["window"]["stages"]} >= {"poll", "commit", "predict"}
    assert rate["events_per_s"] == pytest.approx(200, rel=0.3)
    assert 0 < rate["latency"]["p50"] <= rate["latency"]["p99"]
    assert said["setup"]["broker"] == f"Kafka at {kafka.bootstrap}"
    assert said["curve"]["points"][-1]["items"] == 1024
    assert left_behind(kafka, "scorer") == []
    assert source not in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=15).topics
    assert not list(tmp_path.glob("streamer-bench-*"))


def test_ctrl_c_takes_topics_and_processes_along(
    kafka: Kafka, environment: dict[str, str], source: str, tmp_path: Path
) -> None:
    words = ["mine.py:Scorer", "--rate", "50", "--seconds", "120"]
    with subprocess.Popen(
        [*COMMAND, *words],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's job in the background ignores Ctrl-C, and so would whatever it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr
        while "events in" not in process.stderr.readline():
            assert process.poll() is None
        assert len(left_behind(kafka, "scorer")) >= 3
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1][:17]) == (130, "streamer: stopped")
    assert left_behind(kafka, "scorer") == []


def test_a_mock_broker_will_do_for_a_first_look(environment: dict[str, str], tmp_path: Path) -> None:
    words = ["lead-scoring", "--embedded", "--events", "500", "--set", "kafka.bootstrap_servers=127.0.0.1:1"]
    done = subprocess.run(
        [*COMMAND, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mock broker: says nothing about exactly-once; at most 5 MiB a partition" in done.stdout
    assert "500 sent = " in done.stdout
