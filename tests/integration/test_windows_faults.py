"""Exactly-once of a worker that reads features, which go out beside its predictions: whatever dies, each event has one
prediction and one line of what it was made of."""

from __future__ import annotations

import itertools
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas import UsedFeatures, used_features
from tests.commands import STREAMER, environment, start
from tests.faults.long_run import kill_one_by_one
from tests.faults.stream import Stream
from tests.faults.worker_main import POINTS, SlowCounting
from tests.services import Kafka, Redis, create_topic, read_topic

WORKER = """
from tests.echo import Counting


class Mine(Counting):
    name = "{name}"
    source = "{source}"
    target = "{target}"
"""
STEPS = POINTS[1::3]
"""A third of the steps at which a process may die; `test_kill_9_at_every_step` has them all."""

pytestmark = pytest.mark.timeout(240)


@contextmanager
def windows(stream: Stream, server: Redis, folder: Path) -> Iterator[Callable[[], None]]:
    """The process that counts for the stream's workers; and what kills it, and starts its successor."""
    (folder / "mine.py").write_text(
        WORKER.format(name=SlowCounting.name, source=stream.source, target=stream.target), encoding="utf-8"
    )
    settings = environment(kafka__bootstrap_servers=stream.via, kafka__group_id=stream.group, cache__url=server.url)
    environ = {**settings, "TMPDIR": str(folder)}
    subprocess.run([STREAMER, "topics", "apply", "mine.py:Mine"], cwd=folder, env=environ, check=True)

    running: list[subprocess.Popen[bytes]] = []

    def again() -> None:
        for process in running:
            process.kill()
            process.wait()
        running[:] = [start(["windows", "mine.py:Mine"], folder, environ, "windows.log")]

    again()
    try:
        yield again
    finally:
        running[0].kill()
        running[0].wait()


@pytest.mark.parametrize("protocol", [pytest.param("classic", marks=pytest.mark.slow), "consumer"])
def test_a_worker_with_features_that_dies_at_every_step(
    kafka: Kafka, redis_server: Redis, tmp_path: Path, protocol: str
) -> None:
    redis_server.client().flushdb()
    settings = {"cache": {"url": redis_server.url}, "features": {"log_share": 1.0}}
    deaths = itertools.count(1)
    with (
        Stream(kafka, tmp_path, protocol=protocol, rate=300) as stream,
        windows(stream, redis_server, tmp_path) as again,
    ):

        def killed(point: str, seconds: float | None) -> None:
            if next(deaths) == len(STEPS) // 2:
                again()

        create_topic(kafka.bootstrap, used_features(stream.target), stream.partitions)
        kill_one_by_one(stream, STEPS, killed, worker="windows", settings=settings)
        report = stream.finish()
        predicted = [one.prediction_id for one in stream.outputs() if one.outcome == "prediction"]
        found = read_topic(kafka.bootstrap, used_features(stream.target))
    assert report.complaints == {}, report
    used = [UsedFeatures.model_validate_json(message.value()) for message in found]
    assert Counter(one.prediction_id for one in used) == Counter(predicted), "each was made of something, once"
    counted = [one for one in used if one.features_as_of.offset >= 0]
    assert len(counted) > len(used) / 2, "the windows were never far behind"
    assert all(one.features["pings_7d"] >= 1 for one in used), "the event itself is always in"
