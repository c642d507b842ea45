"""The shipped workers on their committed weights: as good as their manifest says, alone or in a batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from sklearn.metrics import roc_auc_score

from schemas import LeadEvent, LeadScore, TicketEvent, TicketRoute
from streamer.errors import BadConfig
from streamer.models import Model, find
from streamer.worker import Worker
from tests.data import FOLDER, shared
from workers.lead_scoring import training as lead_training
from workers.lead_scoring.worker import LeadScoring
from workers.purchase_propensity.worker import PurchasePropensityWorker
from workers.sales_forecast.worker import SalesForecast
from workers.ticket_routing import training as ticket_training
from workers.ticket_routing.model import PAD, TOKENS_MAX, Parameters
from workers.ticket_routing.worker import TicketRouting

MODELS = Path(__file__).resolve().parents[3] / "workers" / "models"
CPU = torch.device("cpu")
ALL = pytest.mark.parametrize("kind", [LeadScoring, TicketRouting, PurchasePropensityWorker, SalesForecast])


def loaded(kind: type[Worker[Any, Any]]) -> Worker[Any, Any]:
    worker = kind()
    worker.load(find(MODELS, kind.model), CPU)
    return worker


def answers(worker: Worker[Any, Any], events: list[Any]) -> list[Any]:
    """What the engine does with one batch."""
    with torch.inference_mode():
        outputs = worker.predict(worker.encode(events, [{}] * len(events)))
    return [worker.answer.model_validate(answer) for answer in worker.decode(events, outputs)]


def lead(**changes: object) -> LeadEvent:
    return LeadScoring.example.model_copy(update=changes)


def ticket(text: str, **changes: object) -> TicketEvent:
    return TicketRouting.example.model_copy(update={"text": text, **changes})


LEADS = [
    lead(),
    lead(lead_id="rich", balance=102_127, job="retired", poutcome="success", pdays=91, previous=3),
    lead(lead_id="owing", balance=-8019, job=None, education=None, contact=None, campaign=40, month="nov"),
    lead(lead_id="extreme", age=120, balance=10**9, campaign=100_000, pdays=100_000, previous=100_000),
]
TICKETS = [
    ticket("Why?", ticket_id="short"),
    ticket("My card was stolen yesterday, what should I do now?", ticket_id="medium"),
    ticket("I was charged twice for the very same purchase. " * 20, ticket_id="long"),
    ticket("今日は £5 😀 \n\t", ticket_id="odd"),
    ticket(" ", ticket_id="blank"),
]


@ALL
def test_the_example_is_answered(kind: type[Worker[Any, Any]]) -> None:
    [answer] = answers(loaded(kind), [kind.example])

    assert isinstance(answer, kind.answer)
    assert kind.example.topic == kind.source


@pytest.mark.parametrize(("kind", "events"), [(LeadScoring, LEADS), (TicketRouting, TICKETS)])
def test_an_answer_does_not_depend_on_its_batch(kind: type[Worker[Any, Any]], events: list[Any]) -> None:
    worker = loaded(kind)
    together = answers(worker, events)

    assert len(together) == len(events)
    for event, answer in zip(events, together, strict=True):
        [alone] = answers(worker, [event])
        assert numbers(alone) == pytest.approx(numbers(answer), abs=1e-5)
        assert words(alone) == words(answer)


def numbers(answer: LeadScore | TicketRoute) -> list[float]:
    if isinstance(answer, LeadScore):
        return [answer.probability]
    return [candidate.probability for candidate in answer.candidates]


def words(answer: LeadScore | TicketRoute) -> tuple[str, ...]:
    if isinstance(answer, LeadScore):
        return (answer.band,)
    return (answer.intent,)


@ALL
def test_first_dimension_is_the_batch(kind: type[Worker[Any, Any]]) -> None:
    worker = loaded(kind)
    tensors = worker.encode([kind.example] * 3, [{}] * 3)
    with torch.inference_mode():
        outputs = worker.predict(tensors)

    assert {tensor.shape[0] for tensor in (*tensors.values(), *outputs.values())} == {3}


@ALL
def test_a_worker_without_its_model_says_what_to_set(kind: type[Worker[Any, Any]]) -> None:
    with pytest.raises(BadConfig, match=r"set models.dir"):
        kind().load(Model.none(kind.model), CPU)


@ALL
def test_a_version_that_is_not_there_is_named(kind: type[Worker[Any, Any]]) -> None:
    with pytest.raises(BadConfig, match="has no version 'v999'"):
        find(MODELS, kind.model, "v999")


def test_a_worker_refuses_the_model_of_another() -> None:
    with pytest.raises(BadConfig, match=r"\[parameters\] do not fit"):
        LeadScoring().load(find(MODELS, TicketRouting.model), CPU)


@ALL
def test_the_manifest_names_the_schema_of_the_worker_and_files_are_small(kind: type[Worker[Any, Any]]) -> None:
    model = find(MODELS, kind.model)

    assert model.manifest is not None
    assert model.manifest.input_schema == kind.event.__name__
    for folder in (MODELS / kind.model).iterdir():
        assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000


def test_lead_scoring_is_as_good_on_held_out_rows_as_its_manifest_says() -> None:
    leads, labels = lead_training.examples(shared("bank_marketing") / "bank-full.csv.gz")
    unseen = [row for row in range(len(leads)) if lead_training.held_out(row)]
    scores = [answer.probability for answer in answers(loaded(LeadScoring), [leads[row] for row in unseen])]
    manifest = find(MODELS, "lead-scoring").manifest
    assert manifest is not None

    assert len(unseen) == len(leads) // 5
    assert roc_auc_score(labels[unseen], scores) == pytest.approx(manifest.metrics["roc_auc_held_out"], abs=0.005)


def test_ticket_routing_is_as_good_on_the_test_texts_as_its_manifest_says() -> None:
    texts, intents = ticket_training.examples(shared("banking77"), "test")
    routes = answers(loaded(TicketRouting), [ticket(text) for text in texts])
    right = sum(route.intent == intent for route, intent in zip(routes, intents, strict=True)) / len(texts)
    manifest = find(MODELS, "ticket-routing").manifest
    assert manifest is not None

    assert right >= 0.86
    assert right == pytest.approx(manifest.metrics["test_accuracy"], abs=0.005)


def test_bands_follow_the_probability() -> None:
    leads, _ = lead_training.examples(shared("bank_marketing") / "bank-full.csv.gz")
    ranked = sorted(answers(loaded(LeadScoring), leads[4::5]), key=lambda answer: answer.probability)
    bands = [answer.band for answer in ranked]

    assert bands == sorted(bands, key=["cold", "warm", "hot"].index)
    assert 0.08 < bands.count("hot") / len(bands) < 0.12
    assert 0.25 < bands.count("warm") / len(bands) < 0.35


def test_a_category_that_was_never_seen_counts_as_missing() -> None:
    worker = loaded(LeadScoring)
    [unseen, missing, known] = answers(worker, [lead(job="astronaut"), lead(job=None), lead()])

    assert unseen == missing
    assert known != missing


def test_days_since_an_earlier_campaign_may_be_zero_which_is_not_missing() -> None:
    [zero, missing] = answers(loaded(LeadScoring), [lead(pdays=0), lead(pdays=None)])

    assert zero.probability != missing.probability


def test_candidates_are_three_and_best_first() -> None:
    for route in answers(loaded(TicketRouting), TICKETS):
        probabilities = numbers(route)
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert route.intent == route.candidates[0].intent


def test_a_plain_question_finds_its_intent() -> None:
    [route] = answers(loaded(TicketRouting), [ticket("I forgot my PIN and typed a wrong one, it is blocked now")])

    assert route.intent == "pin_blocked"


def test_a_batch_is_padded_to_its_longest_text_and_never_beyond_the_limit() -> None:
    worker = loaded(TicketRouting)
    lengths = [worker.encode([event], [{}])["tokens"].shape[1] for event in TICKETS]
    tokens = worker.encode(TICKETS, [{}] * len(TICKETS))["tokens"]

    assert max(lengths) == TOKENS_MAX == tokens.shape[1]
    assert (tokens != PAD).sum(1).tolist() == lengths


def test_cost_is_close_to_the_number_of_tokens() -> None:
    worker = loaded(TicketRouting)
    texts, _ = ticket_training.examples(shared("banking77"), "test")
    events = [ticket(text) for text in texts]
    lengths = (worker.encode(events, [{}] * len(events))["tokens"] != PAD).sum(1).tolist()
    costs = [worker.cost(event) for event in events]

    assert min(costs) >= 1
    assert sum(length <= cost for length, cost in zip(lengths, costs, strict=True)) > 0.9 * len(events)
    assert sum(costs) < 1.5 * sum(lengths)
    assert worker.cost(ticket("x" * 4000)) == TOKENS_MAX


def test_who_is_answered() -> None:
    assert LeadScoring().accepts(lead())
    assert not LeadScoring().accepts(lead(consent=False))
    assert TicketRouting().accepts(ticket("hello"))
    assert not TicketRouting().accepts(ticket("hallo", language="de"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("age", 42),
        ("job", None),
        ("marital", "single"),
        ("education", "primary"),
        ("default", True),
        ("balance", 1501),
        ("housing", False),
        ("loan", True),
        ("contact", "telephone"),
        ("day", 6),
        ("month", "jun"),
        ("campaign", 2),
        ("pdays", 0),
        ("previous", 1),
        ("poutcome", "other"),
    ],
)
def test_every_feature_of_a_lead_is_in_its_cache_key(field: str, value: object) -> None:
    worker = LeadScoring()

    assert worker.cache_key(lead(**{field: value}), {}) != worker.cache_key(lead(), {})


def test_equal_inputs_have_equal_cache_keys() -> None:
    leads, tickets = LeadScoring(), TicketRouting()

    assert leads.cache_key(lead(event_id="other", lead_id="other"), {}) == leads.cache_key(lead(), {})
    other = ticket("hi", event_id="other", ticket_id="other")
    assert tickets.cache_key(other, {}) == tickets.cache_key(ticket("hi"), {})
    assert tickets.cache_key(ticket("hi"), {}) != tickets.cache_key(ticket("ho"), {})


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (LeadScoring, [*LEADS, lead(lead_id="other"), lead(event_id="other")]),
        (TicketRouting, [*TICKETS, ticket("Why?", ticket_id="other"), ticket("Why?", channel="mail")]),
    ],
)
def test_events_of_one_cache_key_have_one_answer(kind: type[Worker[Any, Any]], events: list[Any]) -> None:
    worker = loaded(kind)
    by_key: dict[object, BaseModel] = {}
    for event in events:
        [answer] = answers(worker, [event])
        assert by_key.setdefault(worker.cache_key(event, {}), answer) == answer


def train_leads(seed: int) -> dict[str, torch.Tensor]:
    leads, labels = lead_training.examples(shared("bank_marketing") / "bank-full.csv.gz")
    return lead_training.fit(lead_training.encode(leads[:600]), labels[:600], seed).state_dict()


def train_tickets(seed: int) -> dict[str, torch.Tensor]:
    texts, intents = ticket_training.examples(shared("banking77"), "train")
    tokenizer = ticket_training.learn_subwords(texts[::50])
    parameters = Parameters(vocabulary=tokenizer.get_vocab_size(), dimension=8, filters=8, widths=3, intents=77)
    labels = torch.tensor([len(intent) for intent in intents[::50]])
    return ticket_training.fit(tokenizer, texts[::50], labels, parameters, seed).state_dict()


@pytest.mark.parametrize("train", [train_leads, train_tickets])
def test_training_twice_gives_the_same_weights(
    train: Callable[[int], dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lead_training, "EPOCHS", 2)
    monkeypatch.setattr(ticket_training, "EPOCHS", 2)
    first, second, other = train(1), train(1), train(2)

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_without_data_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"10\.24432/C5K306"):
        lead_training.examples(tmp_path / "bank-full.csv")
    with pytest.raises(FileNotFoundError, match="task-specific-datasets"):
        ticket_training.examples(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="the data sets are"):
        shared("nothing")
    assert FOLDER.is_dir()


@pytest.mark.parametrize("worker", ["lead_scoring", "ticket_routing", "purchase_propensity", "sales_forecast"])
def test_a_worker_is_imported_without_what_only_training_needs(worker: str) -> None:
    code = f"import sys, workers.{worker}.worker; sys.exit('sklearn' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)  # a new process: this one has sklearn already
