"""What is known of a customer at an invoice, what is asked, and that training learns; on the real file too."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from schemas import InvoiceEvent, InvoiceLine
from streamer.models import find
from tests.data import shared
from workers.purchase_propensity import training
from workers.purchase_propensity.history import Examples, examples, load
from workers.purchase_propensity.model import Network, Parameters, encode
from workers.purchase_propensity.windows import NAMES
from workers.purchase_propensity.worker import PurchasePropensityWorker

MODELS = Path(__file__).resolve().parents[3] / "workers" / "models"
HEAD = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


@pytest.fixture(scope="module")
def known() -> Examples:
    return examples(load(shared("online_retail") / "online_retail.csv.gz"))


def invoice(day: int, *lines: tuple[str, int, float], customer: str = "c") -> InvoiceEvent:
    return InvoiceEvent(
        event_id=f"{customer}-{day}",
        occurred_at=datetime(2011, 3, day, 12, tzinfo=UTC),
        invoice_id=f"{customer}-{day}",
        customer_id=customer,
        lines=tuple(InvoiceLine(article=article, pieces=pieces, price=price) for article, pieces, price in lines),
    )


def row(found: Examples, number: int) -> dict[str, float]:
    return dict(zip(NAMES, found.features[number].tolist(), strict=True))


def test_lines_become_invoices_by_time(tmp_path: Path) -> None:
    path = tmp_path / "online_retail.csv"
    path.write_text(
        HEAD
        + "1,85123a,a,6,2010-12-01 08:26:00,2.5,17850.0,UK\n"
        + "2,71053,of nobody,6,2010-12-01 08:27:00,2.5,,UK\n"
        + "1,71053,b,2,2010-12-01 08:26:00,1.0,17850.0,UK\n"
        + "A4,B,bad debt,1,2010-12-01 08:28:00,-9.5,,UK\n"
        + "C3,71053,b,-2,2010-12-02 08:26:00,1.0,17850.0,UK\n"
    )
    bought, of_nobody, returned = load(path)
    assert (bought.key, bought.invoice_id, bought.occurred_at.hour) == ("17850", "1", 8)
    assert [(line.article, line.pieces) for line in bought.lines] == [("85123A", 6), ("71053", 2)]
    assert (of_nobody.key, of_nobody.customer_id) == ("2", None)
    assert not PurchasePropensityWorker().accepts(of_nobody)
    assert PurchasePropensityWorker().feature_key(of_nobody) is None
    assert len(examples([bought, of_nobody, returned]).again) == 1
    assert (returned.invoice_id, returned.lines[0].pieces) == ("C3", -2)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="UCI Machine Learning Repository"):
        training.read(tmp_path / "online_retail.csv.gz")


def test_what_is_known_has_this_invoice_and_those_before_and_none_after() -> None:
    found = examples(
        [
            invoice(1, ("a", 2, 1.5)),
            invoice(3, ("a", 1, 1.5), ("b", 4, 2.0), ("gift", 1, 0.0)),
            invoice(4, ("b", -4, 2.0)),
            invoice(5, ("c", 1, 1.0)),
        ]
    )
    first, second, last = (row(found, number) for number in range(3))
    assert (first["invoices_7d"], first["spent_7d"], first["articles_7d"]) == (1, 3, 1)
    assert (second["invoices_7d"], second["spent_7d"], second["articles_7d"]) == (2, 12.5, 2)
    assert (second["invoices_1d"], second["spent_1d"], second["returns_7d"]) == (1, 9.5, 0)
    assert (last["returns_7d"], last["returned_7d"], last["pieces_364d"]) == (1, 8, 8)


def test_only_a_purchase_on_a_later_day_within_28_days_is_one_again() -> None:
    bought = ("a", 1, 1.0)
    found = examples(
        [
            invoice(1, bought),
            invoice(1, bought, customer="same day"),
            invoice(1, bought, customer="same day"),
            invoice(1, bought, customer="gave back"),
            invoice(2, ("a", -1, 1.0), customer="gave back"),
            invoice(29, bought),
            invoice(30, bought, customer="same day"),
        ]
    )
    assert found.again.tolist() == [1, 0, 0, 0, 0, 0]
    assert found.since.tolist() == [1000, 1000, 1000, 1000, 28, 29]


def test_training_sees_no_answer_from_the_days_that_are_tested(known: Examples) -> None:
    train, test = known.splits()
    assert int(known.day[train].max()) + 28 < int(known.day[test].min())
    assert int(known.day[test].max()) + 28 == known.last
    assert (int(train.sum()), int(test.sum())) == (9562, 1767)


def test_a_network_learns_what_recency_alone_does_not_say(known: Examples) -> None:
    torch.set_num_threads(1)
    train, test = known.splits()
    network = training.fit(known.features[train], known.again[train], seed=7, epochs=2)
    with torch.inference_mode():
        found = training.measure(known.again[test], network(known.features[test]))
    recency = training.measure(known.again[test], -known.since[test])
    assert found["roc_auc"] > recency["roc_auc"] + 0.02
    assert found["pr_auc"] > recency["pr_auc"] + 0.05


def test_the_same_seed_gives_the_same_weights(known: Examples) -> None:
    torch.set_num_threads(1)
    rows = slice(0, 1000)
    one, same, other = (training.fit(known.features[rows], known.again[rows], seed, 1) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_the_shipped_weights_are_as_good_as_their_manifest_says(known: Examples) -> None:
    model = find(MODELS, "purchase-propensity")
    network = Network(model.parameters(Parameters).width)
    model.fill(network)
    _, test = known.splits()
    with torch.inference_mode():
        found = training.measure(known.again[test], network.eval()(known.features[test]))
    assert model.manifest is not None
    assert found == pytest.approx(model.manifest.metrics, abs=0.002)
    assert found["roc_auc"] > 0.81


def test_a_customer_whom_the_store_does_not_know_is_new() -> None:
    known = encode([{}, {"invoices_7d": 2.0, "of another version": 1.0}])["known"]
    assert known.shape == (2, len(NAMES))
    assert known[0].tolist() == [0.0] * len(NAMES)
    assert known[1].sum() == 2.0
    assert torch.isfinite(Network(8)(known)).all()


def test_cancellations_are_not_answered() -> None:
    worker = PurchasePropensityWorker()
    assert worker.accepts(invoice(1, ("a", 1, 1.0)))
    assert not worker.accepts(invoice(1, ("a", -1, 1.0)))
    assert not worker.accepts(invoice(1, ("a", 1, 0.0)))
    assert worker.feature_key(worker.example) == worker.example.key
