"""Warnings that come again and again: the first in full, then counts."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
import structlog

from streamer.telemetry import log
from streamer.telemetry.repeats import KINDS_MAX, CountingHandler

pytestmark = pytest.mark.usefixtures("logs_put_back")


def configured() -> CountingHandler:
    """The handler of this process's logs; its timer never comes."""
    log.configure("info", "json")
    made = next(one for one in logging.getLogger().handlers if isinstance(one, CountingHandler))
    made._every_s = 3600
    return made


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def dead(partition: int, reason: str = "invalid", **more: object) -> None:
    structlog.get_logger("engine").warning("dead letters", reason=reason, partition=partition, **more)


def test_the_first_of_each_reason_and_partition_is_told_in_full_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = configured()
    for offset in range(50):
        dead(0, count=2, offset=offset, error=f"field{offset}: is missing")
    dead(1, count=1, offset=7)
    dead(0, "no-key", count=1, offset=8)
    assert [(line["reason"], line["partition"], line["count"], line["offset"]) for line in lines(capsys)] == [
        ("invalid", 0, 2, 0), ("invalid", 1, 1, 7), ("no-key", 0, 1, 8),
    ]  # fmt: skip
    handler.tell()
    (counted,) = lines(capsys)
    assert (counted["reason"], counted["count"], counted["offset"]) == ("invalid", 98, 49)


def test_what_goes_on_is_counted_each_time_and_what_has_ended_is_news_again(capsys: pytest.CaptureFixture[str]) -> None:
    handler = configured()
    for _ in range(2):
        dead(0, count=1)
        dead(0, count=1)
        handler.tell()
        dead(0, count=1)
        handler.tell()
        assert [line["count"] for line in lines(capsys)] == [1, 1, 1]
        handler.tell()  # nothing since: forgotten
    assert lines(capsys) == []


def test_a_client_that_repeats_itself_with_other_numbers_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    handler = configured()
    client = logging.getLogger("librdkafka")
    for tries in range(20):
        client.error("FAIL [thrd:broker/1]: Connect to 127.0.0.1:9092 failed (after %dms)", tries)
    client.error("FAIL [thrd:broker/1]: certificate expired")
    assert [line["event"] for line in lines(capsys)] == [
        "FAIL [thrd:broker/1]: Connect to 127.0.0.1:9092 failed (after 0ms)",
        "FAIL [thrd:broker/1]: certificate expired",
    ]
    handler.tell()
    (counted,) = lines(capsys)
    assert counted["event"] == "FAIL [thrd:broker/1]: Connect to 127.0.0.1:9092 failed (after 19ms) (19 times)"


def test_another_error_of_the_same_event_is_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    ours = structlog.get_logger("kafka")
    for error in ("no broker", "no broker", "no right"):
        ours.warning("producer", error=error)
    assert [line["error"] for line in lines(capsys)] == ["no broker", "no right"]


def test_what_a_line_is_about_makes_it_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    ours = structlog.get_logger("kafka")
    for partition in (1, 2, 2):
        ours.warning("partitions lost", partitions=[partition], again_in_s=0.5 * partition)
    assert [line["partitions"] for line in lines(capsys)] == [[1], [2]]


def test_a_process_that_was_forked_counts_for_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = configured()
    dead(0, count=1)
    dead(0, count=1)
    monkeypatch.setattr("os.getpid", lambda: -1)
    dead(0, count=5)
    dead(0, count=7)
    handler.tell()
    assert [line["count"] for line in lines(capsys)] == [1, 5, 7]


def test_news_and_stacks_are_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    ours = structlog.get_logger("kafka")
    for _ in range(3):
        ours.info("partitions assigned")
        ours.error("unexpected", exc_info=ValueError("x"))
    assert len(lines(capsys)) == 6


def test_what_was_counted_is_told_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    handler = configured()
    dead(0, count=1)
    dead(0, count=4)
    handler.close()
    assert [line["count"] for line in lines(capsys)] == [1, 4]


def test_without_a_thread_every_line_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    configured()
    monkeypatch.setattr(threading.Thread, "start", refused)
    for _ in range(3):
        dead(0, count=1)
    assert len(lines(capsys)) == 3


def test_kinds_without_end_take_no_memory_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    handler = configured()
    for number in range(KINDS_MAX + 5):
        structlog.get_logger("kafka").warning("producer", error="x" * number)
    assert len(lines(capsys)) == KINDS_MAX + 5
    assert len(handler._again) == KINDS_MAX
