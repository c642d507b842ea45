"""The arithmetic of the benchmarks: what is counted, joined and held against goals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks import events, quality, report, saturation
from benchmarks.answers import Answer, Place, places, tally, window_rate
from benchmarks.latency import percentile, summarise
from schemas import Candidate, LeadEvent, LeadScore, TicketEvent, TicketRoute
from workers.lead_scoring.training import held_out


def answer(place: Place, event_id: str = "e-1", content: bytes | None = b"{}") -> Answer:
    return Answer(place, event_id, 0, False, None if content is None else msgspec.Raw(content))


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


def test_cpu_is_per_thousand_events_between_the_samples():
    assert saturation.cpu_ms([(1_000, 2.0), (2_000, 2.1), (5_000, 2.4)]) == pytest.approx(100)
    assert math.isnan(saturation.cpu_ms([(1_000, 2.0)]))


def test_latency_leaves_out_the_first_second():
    sent = {"warm": 10.0, "a": 11.0, "b": 12.0, "c": 13.0, "unanswered": 14.0}
    found = summarise(1, sent, {"warm": 19.0, "a": 11.002, "b": 12.004, "c": 13.006})
    assert found.events == 3
    assert found.p50_ms == pytest.approx(4)
    assert found.p99_ms == pytest.approx(6)


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
    assert not report.at_most("x", 21, 20, "c").ok
    assert not report.exactly("x", 1, 0, "c").ok
    assert report.shown("x", 1, "c").ok


def test_figures_are_a_list_that_programs_read(tmp_path: Path):
    report.write([report.at_least("speed", 90, 100, 0.9, "make bench")], tmp_path / "new" / "bench.json")
    assert json.loads((tmp_path / "new" / "bench.json").read_text()) == [
        {
            "what": "speed",
            "ours": 90,
            "against": 100,
            "ratio": 0.9,
            "goal": ">= 0.9 of it",
            "ok": True,
            "command": "make bench",
        }
    ]


def test_leads_are_valid_and_no_two_are_alike():
    records = events.leads(50, "run")
    leads = [LeadEvent.model_validate_json(record.value) for record in records]
    contents = {lead.model_dump_json(exclude={"event_id", "lead_id", "occurred_at"}) for lead in leads}
    assert len(contents) == len({record.event_id for record in records}) == 50
    assert all(lead.consent and lead.key.encode() == record.key for lead, record in zip(leads, records, strict=True))


def test_tickets_are_valid_and_no_two_say_the_same():
    records = events.tickets(50, "run", ["one", "two"])
    tickets = [TicketEvent.model_validate_json(record.value) for record in records]
    assert len({ticket.text for ticket in tickets}) == len({ticket.event_id for ticket in tickets}) == 50
    assert all(ticket.key.encode() == record.key for ticket, record in zip(tickets, records, strict=True))


def test_repeated_tickets_say_again_what_an_earlier_one_said():
    records = events.tickets(2_000, "run", [f"text {number}" for number in range(500)], repeated=0.9)
    texts = [TicketEvent.model_validate_json(record.value).text for record in records]
    assert len(set(texts)) == pytest.approx(200, rel=0.2)


def test_exactly_once_is_held_against_at_least_once_and_repeats_against_all_new():
    cases = saturation.cases(["text"], saturation.FAST)
    pairs = {(str(case), str(other)) for case in cases for other in cases if saturation.is_measure_of(other, case)}
    assert pairs == {
        ("lead-scoring, exactly_once, all new", "lead-scoring, at_least_once, all new"),
        ("ticket-routing, exactly_once, all new", "ticket-routing, at_least_once, all new"),
        ("ticket-routing, exactly_once, 90% repeats, Redis", "ticket-routing, exactly_once, all new"),
    }
