"""Logs: one shape for everybody's, and no record content in them."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from schemas.predictions import Source
from streamer.telemetry import log

pytestmark = pytest.mark.usefixtures("logs_put_back")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_ours_and_foreign_logs_have_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    with bound_contextvars(worker="lead-scoring", partition=3):
        structlog.get_logger("streamer.engine").info("started", batch=7)
        logging.getLogger("librdkafka").warning("FAIL [%s]", "thrd:main")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("torch is slow here", stacklevel=1)
    ours, librdkafka, warning = lines(capsys)
    assert ours["event"] == "started"
    assert ours["batch"] == 7
    assert librdkafka["event"] == "FAIL [thrd:main]"
    assert "torch is slow here" in warning["event"]
    for line, logger, level in [
        (ours, "streamer.engine", "info"),
        (librdkafka, "librdkafka", "warning"),
        (warning, "py.warnings", "warning"),
    ]:
        assert (line["logger"], line["level"]) == (logger, level)
        assert (line["worker"], line["partition"]) == ("lead-scoring", 3)
        assert line["timestamp"].endswith("Z")


def test_level_is_kept_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("warning", "json")
    structlog.get_logger("streamer").info("no")
    logging.getLogger("torch").info("no")
    structlog.get_logger("streamer").warning("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


def test_record_content_is_never_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    source = Source(topic="secret", partition=0, offset=0)
    structlog.get_logger("streamer").info("bad", value="secret", payload={"a": "secret"}, raw=b"secret", said=source)
    [line] = lines(capsys)
    assert "secret" not in json.dumps(line)
    assert line["value"] == line["payload"] == line["raw"] == line["said"] == log.DROPPED


@pytest.mark.parametrize("shape", ["json", "console"])
def test_a_traceback_shows_no_local_variables(shape: log.Format, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", shape)
    try:
        record = "secret" + "-of-a-customer"
        raise ValueError(len(record))
    except ValueError:
        structlog.get_logger("streamer").exception("failed")
        logging.getLogger("foreign").exception("failed")
    said = capsys.readouterr().err
    assert said.count("ValueError") >= 2
    assert "secret-of-a-customer" not in said


def test_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    structlog.get_logger("streamer").info("started")
    said = capsys.readouterr().err
    assert "started" in said
    with pytest.raises(json.JSONDecodeError):
        json.loads(said)


def test_auto_is_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "auto")
    structlog.get_logger("streamer").info("started")
    assert lines(capsys)[0]["event"] == "started"


def test_complaints_of_settings_for_the_other_client_are_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logger = logging.getLogger("librdkafka")
    logger.warning("CONFWARN linger.ms is a producer property and will be ignored by this consumer instance")
    logger.warning("CONFWARN another thing")
    assert [line["event"] for line in lines(capsys)] == ["CONFWARN another thing"]
