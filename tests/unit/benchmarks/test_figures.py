"""The arithmetic of the benchmarks: what is counted, joined and held against goals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import events, quality, report
from benchmarks.answers import Answer, Place, places, tally, window_rate
from benchmarks.latency import percentile, waits_ms
from schemas import Candidate, LeadEvent, LeadScore, TicketEvent, TicketRoute
from workers.lead_scoring.training import held_out


def answer(place: Place, event_id: str = "e-1", content: bytes | None = b"{}") -> Answer:
    return Answer(place, event_id, 0, None if content is None else msgspec.Raw(content))


SENT = places({0: 10, 1: 0}, {0: 12, 1: 2})


def test_places_are_what_lies_between_two_moments():
    assert SENT == [(0, 10), (0, 11), (1, 0), (1, 1)]


def test_all_answered_once_in_order_is_exact():
    found = tally(SENT, [answer(place) for place in SENT])
    assert found.exact
    assert (found.sent, found.predicted) == (4, 4)


@pytest.mark.parametrize(
    ("answers", "field"),
    [
        (SENT[1:], "lost"),
        ([*SENT, SENT[3]], "duplicated"),
        ([*SENT, (0, 12)], "foreign"),
        ([SENT[1], SENT[0], *SENT[2:]], "unordered"),
    ],
)
def test_each_fault_is_counted_and_is_not_exact(answers: Sequence[Place], field: str):
    found = tally(SENT, map(answer, answers))
    assert getattr(found, field) == 1
    assert sum(found[3:]) == 1
    assert not found.exact


def test_a_dead_letter_is_an_outcome_and_no_prediction():
    found = tally(SENT, [answer(SENT[0], content=None), *map(answer, SENT[1:])])
    assert (found.predicted, found.dead, found.lost, found.exact) == (3, 1, 0, False)


def test_a_prediction_and_a_dead_letter_of_one_event_are_a_duplicate():
    assert tally(SENT, [*map(answer, SENT), answer(SENT[0], content=None)]).duplicated == 1


def test_the_window_leaves_out_start_and_end():
    steady = [1_000 + 10 * number for number in range(100)]  # 100 events a second
    assert window_rate([0, *steady, 90_000]) == pytest.approx(100, rel=0.02)


def test_a_window_of_nothing_has_no_rate():
    assert window_rate([5] * 100) == window_rate([1]) == 0.0


def test_latency_leaves_out_the_first_second_and_what_has_no_answer():
    sent = {1: 10.0, 2: 11.0, 3: 12.0, 4: 13.0, 5: 14.0}
    assert waits_ms(sent, {1: 19.0, 2: 11.002, 3: 12.006, 4: 13.004}) == pytest.approx([2, 4, 6])


def test_a_percentile_is_one_of_the_values():
    ordered = [float(value) for value in range(100)]
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert math.isnan(percentile([], 0.5))


def test_answers_meet_the_label_of_their_row():
    found = quality.joined([answer(SENT[0], "bank-full-2"), answer(SENT[1], "", None)], ["no", "yes"])
    assert {row: label for row, (_, label) in found.items()} == {1: "yes"}


def lead(row: int, probability: float) -> Answer:
    score = LeadScore(lead_id=str(row), probability=probability, band="cold")
    return answer((0, row), f"file-{row + 1}", score.model_dump_json().encode())


def test_lead_quality_is_also_that_of_the_rows_the_model_never_saw():
    labels = ["yes" if row % 2 else "no" for row in range(20)]
    right = {row: (0.9 if labels[row] == "yes" else 0.1) for row in range(20)}
    wrong_where_unseen = [lead(row, 1 - score if held_out(row) else score) for row, score in right.items()]
    found = quality.lead_quality(quality.joined(wrong_where_unseen, labels))
    assert found["ROC AUC, held-out rows"] == 0.0
    assert 0.0 < found["ROC AUC, all rows"] < 1.0


def test_an_auc_that_is_not_defined_is_left_out():
    assert quality.lead_quality(quality.joined([lead(0, 0.5)], ["no"])) == {}


def test_ticket_quality_counts_the_first_intent_and_any_offered():
    def route(row: int) -> Answer:
        offered = tuple(Candidate(intent=intent, probability=0.3) for intent in ("first", "second"))
        value = TicketRoute(ticket_id=str(row), intent="first", candidates=offered).model_dump_json().encode()
        return answer((0, row), f"test-{row + 1}", value)

    found = quality.ticket_quality(quality.joined(map(route, range(4)), ["first", "second", "third", "first"]))
    assert found == {"accuracy": 0.5, "right intent among those offered": 0.75}


def test_goals():
    assert report.at_least("x", 90, 100, 0.9, "c").ok
    assert not report.at_least("x", 89, 100, 0.9, "c").ok
    assert report.at_least("x", 20, None, 20, "c").ok
    assert not report.at_most("x", 21, None, 20, "c").ok
    assert report.at_most("x", 150, 100, 1.5, "c").ok
    assert not report.at_most("x", 151, 100, 1.5, "c").ok
    assert not report.exactly("x", 1, 0, "c").ok
    assert report.shown("x", 1, "c").ok
    assert report.middle("x", [3, 1, 2], "c").ours == 2


@pytest.mark.parametrize(("ours", "against"), [(math.nan, 100), (100, math.nan), (math.nan, math.nan)])
def test_what_could_not_be_measured_reaches_no_goal(ours: float, against: float):
    assert not report.at_least("x", ours, against, 0.9, "c").ok
    assert not report.at_most("x", ours, against, 2.0, "c").ok


def test_the_table_of_goals_leaves_out_what_has_none():
    figures = [report.at_least("speed", 1234, 1000, 0.9, "c"), report.shown("mood", 1, "c")]
    shown = report.goals([*figures, report.at_most("p99", math.nan, None, 20, "c")])
    assert [line.split("|")[1].strip() for line in shown.splitlines()[2:]] == ["speed", "p99"]
    assert "1,234" in shown
    assert "nan" not in shown


def test_figures_are_a_list_that_programs_read(tmp_path: Path):
    slow = report.at_least("speed", math.nan, None, 9, "c")
    report.write([report.at_least("speed", 90, 100, 0.9, "make bench"), slow], tmp_path / "new" / "bench.json")
    first, second = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert first == {
        "what": "speed",
        "ours": 90,
        "against": 100,
        "ratio": 0.9,
        "goal": ">= 0.9 of it",
        "ok": True,
        "command": "make bench",
        "runs": [],
    }
    assert second["ours"] is None


def test_leads_are_valid_and_no_two_are_alike():
    feed = events.leads()
    records = [feed.record(number) for number in range(50)]
    leads = [LeadEvent.model_validate_json(value) for _, value in records]
    contents = {lead.model_dump_json(exclude={"event_id", "lead_id", "occurred_at"}) for lead in leads}
    assert len(contents) == len({lead.event_id for lead in leads}) == 50
    assert all(lead.consent and lead.key.encode() == key for lead, (key, _) in zip(leads, records, strict=True))


def test_tickets_are_valid_and_no_two_say_the_same():
    feed = events.tickets(["one", "two"])
    records = [feed.record(number) for number in range(50)]
    tickets = [TicketEvent.model_validate_json(value) for _, value in records]
    assert len({ticket.text for ticket in tickets}) == len({ticket.event_id for ticket in tickets}) == 50
    assert all(ticket.key.encode() == key for ticket, (key, _) in zip(tickets, records, strict=True))


def test_repeats_say_again_what_an_earlier_one_said():
    picks = events.repeats(2_000, share=0.9).tolist()
    assert max(picks) + 1 == len(set(picks)) == pytest.approx(200, rel=0.2)
    assert all(pick <= max(picks[:at]) + 1 for at, pick in enumerate(picks) if at)


def test_a_repeated_ticket_has_the_text_that_is_picked():
    feed = events.tickets(["one", "two"], np.array([0, 1, 0]))
    texts = [TicketEvent.model_validate_json(feed.record(number)[1]).text for number in range(3)]
    assert texts == ["one", "two", "one"]
