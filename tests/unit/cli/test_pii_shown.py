"""What the command line shows of events: no person, unless it is asked to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas import TicketEvent
from schemas.pii import HIDDEN
from streamer import cli
from streamer.cli import produce, tail, view
from streamer.wire import headers
from tests.people import CANARY, NUMBER, Indiscreet, Quoting, as_json
from tests.unit.privacy.test_pii import Seen, clean


def test_what_is_wrong_with_a_row_is_told_without_the_row(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": [CANARY]}, {"customer_id": CANARY * 99, "text": "x"}, {"text": CANARY * 999}, {CANARY: 1}]
    (tmp_path / "t.jsonl").write_text("\n".join([*map(json.dumps, rows), "{" + CANARY]))
    assert run(monkeypatch, "produce", "t.jsonl", "--as", "ticket", "--dry-run") == 65
    (tmp_path / "l.csv").write_text(f"age,job,marital,balance\n{CANARY},{CANARY},{CANARY},{NUMBER}\n")
    assert run(monkeypatch, "produce", "l.csv", "--as", "lead", "--dry-run") == 65
    said = capsys.readouterr()
    clean(said.out)
    assert clean(said.err).count("row ") == 6
    assert "row 1: age: Input should be a valid integer" in said.err


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["streamer", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_rows_of_a_model_that_quotes_are_told_without_the_quote(tmp_path: Any) -> None:
    (tmp_path / "p.jsonl").write_text(as_json(name="!" + CANARY) + "\n" + as_json(contacts={CANARY: 1}))
    problems = [row.problem for row in produce.read(tmp_path / "p.jsonl", Quoting)]
    assert clean(problems)
    assert problems[0] == "name: is refused by the event's model (value_error)"


TICKET = {"event_id": "e", "ticket_id": "t1", "customer_id": CANARY, "text": CANARY, "txet": CANARY, CANARY: [CANARY]}
ODD = [("traceparent", b"00-ab-cd-01"), ("user", CANARY.encode()), (headers.ATTEMPTS, b"2")]


@pytest.mark.parametrize("topic", [TicketEvent.topic, f"dlq.{TicketEvent.topic}"])
def test_tail_hides_persons_and_shows_the_rest(topic: str) -> None:
    hiding = view.masked(topic, None)
    shown = tail.as_object(Seen(json.dumps(TICKET).encode(), read=ODD), hiding)
    clean(shown)
    assert shown["key"] == shown["headers"]["user"] == HIDDEN
    assert (shown["headers"]["traceparent"], shown["headers"][headers.ATTEMPTS]) == ("00-ab-cd-01", "2")
    expected = {"event_id": "e", "ticket_id": "t1", "customer_id": HIDDEN, "text": HIDDEN, "*": HIDDEN}
    assert shown["value"] == expected
    clean(tail.as_line(Seen(json.dumps(TICKET).encode(), read=ODD), hiding))
    for broken in (CANARY.encode(), json.dumps([CANARY]).encode(), json.dumps({"event_id": {"x": CANARY}}).encode()):
        clean(tail.as_object(Seen(broken), hiding))
        clean(tail.as_line(Seen(broken), hiding))
    assert tail.as_object(Seen(None), hiding)["value"] is None


def test_tail_shows_all_when_it_is_asked_to() -> None:
    shown = tail.as_object(Seen(json.dumps(TICKET).encode(), read=ODD), view.whole(TicketEvent.topic, None))
    assert shown["value"] == TICKET
    assert (shown["key"], shown["headers"]["user"]) == (CANARY, CANARY)


@pytest.mark.parametrize("topic", ["crm.leads.scores.v1", "crm.tickets.routes.v1"])
def test_tail_hides_whom_a_prediction_is_about(topic: str) -> None:
    value = {"prediction_id": "p", "key": CANARY, "worker": "w", "answer": {"probability": 0.5, "intent": "i"}}
    line = tail.as_line(Seen(json.dumps(value).encode()), view.masked(topic, None))
    assert line.startswith(HIDDEN)
    assert ("probability=0.5" if "leads" in topic else "intent=i") in clean(line)


def test_tail_knows_the_events_of_installed_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.discovery.names", lambda: ["one"])
    monkeypatch.setattr("streamer.discovery.find", lambda _: Indiscreet)
    for topic in (Indiscreet.source, f"dlq.{Indiscreet.source}"):
        assert tail.as_object(Seen(as_json().encode()), view.masked(topic, None))["value"]["account"] == "a0"
        clean(tail.as_object(Seen(as_json().encode()), view.masked(topic, None)))
    envelope = json.dumps({"key": CANARY, "answer": {"length": 3, "income": 1, "name": CANARY}}).encode()
    assert "length=3" in clean(tail.as_line(Seen(envelope), view.masked(Indiscreet.target, None)))
