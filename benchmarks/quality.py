"""Answers joined to labels: how good they are. Pure; the arithmetic is scikit-learn's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sklearn.metrics import accuracy_score, roc_auc_score

from benchmarks.answers import Answer
from schemas import LeadScore, TicketRoute
from workers.lead_scoring.training import held_out


def row_of(event_id: str) -> int:
    """The row of the file, counted from 0, of an event that `streamer produce` made: ids are `<file>-<row>`."""
    return int(event_id.rpartition("-")[2]) - 1


def joined(answers: Iterable[Answer], labels: Sequence[str]) -> dict[int, tuple[msgspec.Raw, str]]:
    """Row to its answer and its label; dead letters have none.

    Raises:
        IndexError: an answer is of no row of the file.
    """
    rows = ((row_of(answer.event_id), answer.content) for answer in answers if answer.content is not None)
    return {row: (content, labels[row]) for row, content in rows}


def lead_quality(rows: Mapping[int, tuple[msgspec.Raw, str]]) -> dict[str, float]:
    """ROC AUC over all rows (the model has seen most of them) and over those it has never seen; without the one
    that is not defined, because a handful of rows may all have the same label."""
    scores = {row: LeadScore.model_validate_json(bytes(answer)).probability for row, (answer, _) in rows.items()}
    found = {}
    for what, which in (("all", list(rows)), ("held-out", [row for row in rows if held_out(row)])):
        answers = [rows[row][1] == "yes" for row in which]
        if len(set(answers)) == 2:
            found[f"ROC AUC, {what} rows"] = float(roc_auc_score(answers, [scores[row] for row in which]))
    return found


def ticket_quality(rows: Mapping[int, tuple[msgspec.Raw, str]]) -> dict[str, float]:
    """How often the first intent is right, and how often one of those offered is."""
    routes = {row: TicketRoute.model_validate_json(bytes(answer)) for row, (answer, _) in rows.items()}
    offered = [rows[row][1] in {candidate.intent for candidate in route.candidates} for row, route in routes.items()]
    labels = [rows[row][1] for row in routes]
    return {
        "accuracy": float(accuracy_score(labels, [route.intent for route in routes.values()])),
        "right intent among those offered": sum(offered) / len(offered),
    }
