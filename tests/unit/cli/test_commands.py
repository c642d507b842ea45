"""The verbs without a broker: what they read, show and refuse, and with which exit code they end."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from schemas import DeadLetter, LeadEvent, Source, TicketEvent
from streamer import cli
from streamer.cli import lag, produce, replay, tail
from streamer.errors import BadData, Usage
from streamer.wire import headers

LEAD = {
    "age": "30",
    "job": "unknown",
    "marital": "single",
    "education": "tertiary",
    "default": "no",
    "balance": "-5",
    "housing": "yes",
    "loan": "no",
    "contact": "cellular",
    "day": "5",
    "month": "may",
    "campaign": "1",
    "pdays": "-1",
    "previous": "0",
    "poutcome": "unknown",
}


class Message:
    """What a consumer hands out."""

    def __init__(self, value: bytes | None, *pairs: tuple[str, bytes], key: bytes = b"k", offset: int = 0) -> None:
        self._value, self._headers, self._key, self._offset = value, list(pairs), key, offset

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes:
        return self._key

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 2

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_000


DEAD = [
    (headers.DLQ_TOPIC, b"crm.leads.events.v1"),
    (headers.DLQ_PARTITION, b"3"),
    (headers.DLQ_OFFSET, b"41"),
    (headers.DLQ_GROUP, b"streamer-lead-scoring"),
    (headers.DLQ_MESSAGE, b"age: too small"),
    (headers.DLQ_ERROR, b"ValidationError"),
    (headers.REASON, b"invalid"),
    (headers.WORKER, b"lead-scoring"),
    (headers.ATTEMPTS, b"2"),
]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("STREAMER_KAFKA__BOOTSTRAP_SERVERS", "STREAMER_CACHE__URL"):
        monkeypatch.delenv(name, raising=False)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a command line."""
    monkeypatch.setattr("sys.argv", ["streamer", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_version_names_what_works_together(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "version", "--json") == 0
    assert {"streamer", "librdkafka", "torch", "python"} <= json.loads(capsys.readouterr().out).keys()
    assert run(monkeypatch, "version") == 0
    assert capsys.readouterr().out.startswith("streamer 0.1.0\n")


@pytest.mark.parametrize(
    "words",
    ["run", "check", "topics plan", "topics apply", "produce", "tail", "lag", "replay", "schema export", "version"],
)
def test_help_teaches_by_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(monkeypatch, *words.split(), "--help") == 0
    assert f"Example: streamer {words}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("lag lead-scorin", 2, "did you mean lead-scoring?"),
        ("run nobody.py:Worker", 2, "there is no file nobody.py"),
        ("produce no.csv --as lead", 2, "there is no file no.csv"),
        ("produce no.csv --as leed", 2, "there is lead, ticket"),
        ("tail t --set kafka", 2, "write key=value"),
        ("tail t --set kafka.grup_id=x", 78, "did you mean kafka.group_id?"),
        ("tail t --set kafka.client.linger.ms=soon", 78, "[kafka.client] is not accepted"),
        ("tail t --config no.toml", 78, "no.toml is not there"),
        ("replay --dlq dlq.t --where colour=red", 2, "with a field of reason, worker"),
    ],
)
def test_an_error_is_one_line_with_its_cure_and_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, code: int, told: str
) -> None:
    assert run(monkeypatch, *words.split()) == code
    said = capsys.readouterr().err
    assert said.startswith("streamer: ")
    assert said.count("\n") == 1
    assert told in said


def test_an_unknown_verb_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "produec") == 2


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streamer.cli.tail.settings", interrupted)
    assert run(monkeypatch, "tail", "t") == 130


# produce


def csv_text(*rows: dict[str, str], delimiter: str = ";") -> str:
    lines = [delimiter.join(f'"{name}"' for name in rows[0])]
    return "\n".join(lines + [delimiter.join(f'"{cell}"' for cell in row.values()) for row in rows]) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_of_any_delimiter_plain_or_packed(tmp_path: Path, delimiter: str) -> None:
    text = csv_text(LEAD, LEAD, delimiter=delimiter).encode()
    plain, packed = tmp_path / "leads.csv", tmp_path / "leads.csv.gz"
    plain.write_bytes(b"\xef\xbb\xbf" + text)
    packed.write_bytes(gzip.compress(text))
    for file in (plain, packed):
        rows = list(produce.read(file, LeadEvent))
        assert [row.problem for row in rows] == ["", ""]
        assert [row.event.event_id for row in rows if row.event] == ["leads-1", "leads-2"]
    event = rows[0].event
    assert isinstance(event, LeadEvent)
    assert (event.job, event.pdays, event.balance, event.housing) == (None, None, -5, True)


def test_doubled_quotes_and_line_breaks_stay_in_a_cell(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('text,channel\n"say ""hi"",\nnow",mail\nplain,chat\n')
    events = [row.event for row in produce.read(file, TicketEvent)]
    assert [event.text for event in events if isinstance(event, TicketEvent)] == ['say "hi",\nnow', "plain"]


def test_ids_and_times_of_the_file_are_used(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("event_id,occurred_at,text\nabc,2024-05-01T09:30:00Z,hello\n,,world\n")
    first, second = (row.event for row in produce.read(file, TicketEvent))
    assert first
    assert second
    assert (first.event_id, first.occurred_at.isoformat()) == ("abc", "2024-05-01T09:30:00+00:00")
    assert second.event_id == "t-2"
    assert second.occurred_at.year > 2024


def test_bad_rows_are_told_by_number_and_the_rest_is_read(tmp_path: Path) -> None:
    file = tmp_path / "leads.csv"
    file.write_text(csv_text(LEAD, {**LEAD, "age": "old"}, LEAD) + '"1";"2"\n')
    rows = list(produce.read(file, LeadEvent))
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert [bool(row.event) for row in rows] == [True, False, True, False]
    assert rows[1].problem.startswith("age: ")
    (tmp_path / "few.csv").write_text("age\n30\n")
    assert re.search(r" \(and \d+ more\)$", next(produce.read(tmp_path / "few.csv", LeadEvent)).problem)
    assert "another number of cells than the 15" in rows[3].problem


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "tickets.jsonl"
    lines = [
        {"ticket_id": "a", "customer_id": "c", "text": "x"},
        {"ticket_id": "b", "customer_id": "c", "text": "y", "event_id": "own"},
        {"ticket_id": "b"},
        [],
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"cut\n\n')
    rows = list(produce.read(file, TicketEvent))
    assert [row.event.event_id for row in rows if row.event] == ["tickets-1", "own"]
    assert [row.number for row in rows if row.problem] == [3, 4, 5]
    assert "customer_id" in rows[2].problem
    assert rows[3].problem == "is no JSON object"
    assert rows[4].problem.startswith("is not JSON")


@pytest.mark.parametrize("content", [b"text\n\xff\xfe", b"\x1f\x8b broken", gzip.compress(b"text\nhello\n")[:-9]])
def test_what_is_no_text_is_bad_data(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(content)
    with pytest.raises(BadData, match="is not UTF-8 text"):
        list(produce.read(file, TicketEvent))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"")
    assert list(produce.read(file, TicketEvent)) == []


def test_a_dry_run_checks_rows_without_a_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "leads.csv").write_text(csv_text(LEAD, {**LEAD, "age": "old"}, LEAD))
    assert run(monkeypatch, "produce", "leads.csv", "--as", "lead", "--dry-run") == 65
    said = capsys.readouterr()
    assert said.out == "would send 2 events to crm.leads.events.v1\n"
    assert said.err.splitlines()[0].startswith("row 2: age: ")
    assert "1 of 3 rows of leads.csv do not fit a lead event" in said.err
    assert run(monkeypatch, "produce", "leads.csv", "--as", "lead", "--dry-run", "--limit", "1") == 0
    assert capsys.readouterr().out.startswith("would send 1 events")


# tail


def test_a_prediction_in_words() -> None:
    envelope = {
        "worker": "lead-scoring",
        "model_version": "v1",
        "cache": "hit",
        "produced_at": "2024-05-01T09:30:00Z",
        "answer": {"lead_id": "7", "probability": 0.123456, "band": "warm"},
    }
    assert tail.as_line(Message(json.dumps(envelope).encode())) == (
        "k  lead_id=7 probability=0.1235 band=warm  lead-scoring v1, cached  2024-05-01T09:30:00Z"
    )


def test_a_dead_letter_in_words() -> None:
    line = tail.as_line(Message(b"\xff\x00", *DEAD))
    assert line == "k  invalid  age: too small  from crm.leads.events.v1/3/41, attempt 2"


@pytest.mark.parametrize("value", [b"\x1b[2Jgone", b'{"a": "\\u001b[2J"}', b"\xff", b"[" * 100_000, b"", None])
def test_any_record_is_safe_for_a_terminal(value: bytes | None) -> None:
    message = Message(value, ("h", b"\x1b"), key=b"\x1b]0;title\x07")
    assert tail.as_line(message).isprintable()
    assert json.loads(json.dumps(tail.as_object(message)))["partition"] == 2


# lag


def test_time_to_drain_is_what_is_left_over_what_is_gained() -> None:
    first = [lag.Sample(0, 100, 500), lag.Sample(1, 0, 100)]
    last = [lag.Sample(0, 300, 520), lag.Sample(1, 100, 100)]
    drained = lag.drain(first, last, 2.0)
    assert (drained.answered_per_s, drained.arriving_per_s) == (150.0, 10.0)
    assert drained.seconds == pytest.approx(220 / 140)


def test_a_worker_that_falls_behind_never_drains() -> None:
    assert lag.drain([lag.Sample(0, 0, 10)], [lag.Sample(0, 10, 30)], 1.0).seconds is None


def test_nothing_left_is_drained() -> None:
    assert lag.drain([lag.Sample(0, 5, 5)], [lag.Sample(0, 5, 5)], 1.0).seconds == 0


# replay


def dead(**changes: Any) -> DeadLetter:
    fields = {
        "source": Source(topic="crm.leads.events.v1", partition=3, offset=41),
        "group": "g",
        "worker": "lead-scoring",
        "reason": "invalid",
        "message": "m",
        "error": "ValidationError",
        "attempts": 2,
    }
    return DeadLetter(**{**fields, **changes})


def test_the_original_record_goes_back() -> None:
    original = [("traceparent", b"00-1"), ("odd", b"\xff\x00"), ("odd", b"again")]
    message = Message(b"\x00\xff", *original, *DEAD, key=b"\xfe")
    assert headers.dead_letter(message.headers()) == dead(group="streamer-lead-scoring", message="age: too small")
    record = replay.back(message, dead())
    assert (record.topic, record.partition) == ("crm.leads.events.v1", 3)
    assert (record.key, record.value) == (b"\xfe", b"\x00\xff")
    assert record.headers == [
        *original,
        (headers.ATTEMPTS, b"2"),
        (headers.SOURCE, b"crm.leads.events.v1/3/41"),
    ]


def test_a_second_replay_keeps_where_it_began() -> None:
    message = Message(b"v", (headers.SOURCE, b"crm.leads.events.v1/3/7"), *DEAD)
    assert replay.back(message, dead()).headers == [
        (headers.SOURCE, b"crm.leads.events.v1/3/7"),
        (headers.ATTEMPTS, b"2"),
    ]


def test_conditions_must_all_hold() -> None:
    assert replay.matches(dead(), replay.conditions(["reason=invalid", "partition=3", "attempts=2"]))
    assert not replay.matches(dead(), replay.conditions(["reason=invalid", "partition=4"]))
    assert replay.matches(dead(), {})
    with pytest.raises(Usage, match="write field=value"):
        replay.conditions(["reason"])


def test_what_cannot_be_sent_is_parked() -> None:
    assert replay.parked(Message(b"v", *DEAD), dead(attempts=3), 3) is None
    assert "more than 3 attempts" in (replay.parked(Message(b"v", *DEAD), dead(attempts=4), 3) or "")
    assert "too large" in (replay.parked(Message(None, *DEAD, (headers.VALUE_SHA256, b"x")), dead(), 3) or "")


def walk(at: replay.Progressed, offsets: list[int], wanted: set[int]) -> list[int]:
    """Replay those of a partition's records that are wanted, as the verb does; which were sent."""
    sent = []
    for offset in offsets:
        if offset < at.position:
            continue
        if offset in at.done:
            at.settle(offset)
        elif offset in wanted:
            at.take(offset)
            sent.append(offset)
        else:
            at.pass_over(offset)
    return sent


def test_every_record_is_replayed_once_whatever_the_filters() -> None:
    offsets = [n for n in range(400) if n % 10]  # every tenth offset is a transaction's mark
    sent: list[int] = []
    position, metadata = 0, ""
    for rest in (2, 0, 4, 1, 3):
        at = replay.Progressed(position, metadata)
        sent += walk(at, offsets, {n for n in offsets if n % 5 == rest})
        position, metadata = at.position, at.metadata()
        assert walk(replay.Progressed(position, metadata), offsets, set(sent)) == []
        assert len(metadata) < replay.METADATA_BYTES_MAX
    assert sorted(sent) == offsets
    assert (position, metadata) == (400, "")


def test_what_retention_has_deleted_is_forgotten() -> None:
    at = replay.Progressed(0)
    walk(at, [1, 2, 3, 4], {2, 4})
    again = replay.Progressed(at.position, at.metadata())
    assert walk(again, [3, 4, 5], {3, 5}) == [3, 5]
    assert (again.position, again.metadata()) == (6, "")
