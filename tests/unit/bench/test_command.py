"""`streamer bench` as a user calls it, without a broker: its help, what it refuses, and the form of its report."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from streamer import cli
from streamer.bench import report, session
from streamer.bench.advice import advise
from streamer.bench.broker import MOCK_SAID
from streamer.bench.child import Job, job
from streamer.bench.load import settings_of
from streamer.bench.proposals import judge, propose
from streamer.bench.report import Report, Setup
from streamer.bench.session import Options
from streamer.settings import Settings
from tests.unit.bench.test_advice import AT_RATE, BACKLOG, COUNTS, CURVE, FACTS

SETUP = Setup(
    worker="echo",
    delivery="exactly_once",
    device="cpu",
    broker=MOCK_SAID,
    partitions=4,
    cores=2,
    events="samples of the worker",
    event_bytes=300.0,
    repeats=0.4,
)
TRIAL = judge(propose(FACTS)[0], BACKLOG, BACKLOG)
ADVICE = advise(FACTS, [], [TRIAL])
REPORT = Report(setup=SETUP, curve=CURVE, runs=[BACKLOG, AT_RATE], trials=[TRIAL], advice=ADVICE, faults=[], logs=None)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("STREAMER_KAFKA__BOOTSTRAP_SERVERS", "STREAMER_CACHE__URL"):
        monkeypatch.delenv(name, raising=False)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `streamer bench` with these words."""
    monkeypatch.setattr("sys.argv", ["streamer", "bench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def test_help_teaches_by_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Example: streamer bench lead-scoring --saturate --rate 1000 --rate 5000" in said
    for option in ("--rate", "--saturate", "--events", "--seconds", "--delivery", "--file", "--embedded", "--json"):
        assert option in said


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("lead-scorin", 2, "did you mean lead-scoring?"),
        ("lead-scoring --events 10 --seconds 2", 2, "give one of them"),
        ("lead-scoring --delivery twice", 78, "'exactly_once' or 'at_least_once'"),
        ("lead-scoring --set kafka", 2, "write key=value"),
        (f"lead-scoring --set kafka.bootstrap_servers={nobody()}", 69, "on a mock broker: --embedded"),
    ],
)
def test_an_error_says_the_cure_and_has_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, code: int, told: str
) -> None:
    assert run(monkeypatch, *words.split()) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("streamer: ")
    assert told in last


def asked(monkeypatch: pytest.MonkeyPatch, found: Report, *words: str) -> tuple[int, Options, Settings]:
    """The exit code, and what the command line has asked for, where the run would have found this."""
    heard: list[Any] = []

    def instead(*given: Any) -> Report:
        heard.extend(given)
        return found

    monkeypatch.setattr(session, "run", instead)
    monkeypatch.setattr("sys.argv", ["streamer", "bench", "echo", *words])
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, heard[0], heard[1]


def test_a_backlog_is_what_is_measured_unless_rates_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    _, options, settings = asked(monkeypatch, REPORT)
    assert options == Options("echo", (), True, None, 5.0, False, None)
    assert settings.delivery == "exactly_once"
    _, options, settings = asked(monkeypatch, REPORT, "--rate", "10", "--rate", "20", "--delivery", "at_least_once")
    assert (list(options.rates), options.saturate, settings.delivery) == ([10.0, 20.0], False, "at_least_once")
    _, options, _ = asked(monkeypatch, REPORT, "--rate", "10", "--saturate", "--events", "50", "--embedded")
    assert (list(options.rates), options.saturate, options.events, options.embedded) == ([10.0], True, 50, True)


def test_json_is_one_object_with_all_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, REPORT, "--json")[0] == 0
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == {"setup", "curve", "runs", "trials", "advice", "faults", "logs"}
    backlog, rate = said["runs"]
    assert (backlog["rate"], backlog["latency"], rate["latency"]["p99"]) == (None, None, 90.0)
    assert backlog["counts"] | {"dead_reasons": 0} == msgspec.to_builtins(COUNTS) | {"dead_reasons": 0, "lost": 0}
    assert backlog["window"]["stages"][1] == {"thread": "owner", "stage": "commit", "us_per_event": 30.0, "share": 0.3}
    assert (said["curve"]["best_items"], said["curve"]["knee_items"]) == (4, 2)
    assert said["advice"]["bound"] == "device"
    assert "items_max = 2" in said["advice"]["toml"]
    assert rate["kept_up"]
    assert said["trials"][0]["suggestion"]["ready"]
    assert said["trials"][0]["run"]["counts"]["lost"] == 0


def test_the_page_shows_what_matters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    behind = msgspec.structs.replace(AT_RATE, events_per_s=500.0, window=None)
    code, *_ = asked(monkeypatch, msgspec.structs.replace(REPORT, runs=[BACKLOG, AT_RATE, behind]))
    page = capsys.readouterr().out
    assert code == 0
    assert "mock broker: says nothing about exactly-once; at most 5 MiB a partition" in page
    for text in (
        "100 sent = 95 predicted + 2 dead (invalid 2) + 3 skipped; lost 0, repeated 0, out of order 0",
        "backlog",
        "1,000/s (behind)",
        "owner   poll (waits)",
        "20 of 1,000",
        "█ knee",
        "A batch takes 0.90 ms + 100.00 µs per event.",
        "Bound by the model",
        "[batch]",
    ):
        assert text in page, page
    assert not any(line.endswith(" ") for line in page.splitlines())


def test_a_broken_promise_is_exit_code_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = msgspec.structs.replace(REPORT, faults=["backlog: 3 events have no outcome"], logs="/logs")
    code, *_ = asked(monkeypatch, wrong)
    said = capsys.readouterr()
    assert code == 70
    assert "WRONG: backlog: 3 events have no outcome" in said.out
    assert said.err == "streamer: backlog: 3 events have no outcome. What the workers logged is in /logs\n"


def test_nothing_suggested_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    advice = msgspec.structs.replace(REPORT.advice, settings=[])
    report.show(msgspec.structs.replace(REPORT, advice=advice))
    assert "No setting is suggested" in capsys.readouterr().out


def test_the_child_is_told_all_settings_with_their_secrets_but_a_cache_of_its_own() -> None:
    mine = Settings(
        cache={"url": SecretStr("redis://:pw@localhost"), "secret": "mine", "ttl_s": 60},
        kafka={"client": {"sasl.password": "secret"}, "group_id": "mine"},
        delivery="at_least_once",
    )
    told = msgspec.json.decode(
        job(
            "mine.py:W",
            "s",
            "t",
            settings_of(mine, {"batch.items_max": "8", "commit_interval_ms": "50"}, "bench.g", 1234),
        ),
        type=Job,
    )
    settings = Settings(**told.settings)
    assert (told.worker, told.source, told.target, settings.delivery) == ("mine.py:W", "s", "t", "at_least_once")
    assert settings.kafka.client == {"sasl.password": "secret"}
    assert (settings.kafka.group_id, settings.kafka.slot, settings.kafka.start) == ("bench.g", "bench", "earliest")
    assert (settings.batch.items_max, settings.commit_interval_ms) == (8, 50)
    assert (settings.http.port, settings.cache.ttl_s) == (1234, 60)
    assert settings.cache.url == mine.cache.url
    assert settings.cache.secret not in (None, mine.cache.secret)
