"""Predicts, when an invoice is written, whether the customer buys again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from schemas import PURCHASE_PROPENSITIES, InvoiceEvent, InvoiceLine, PurchasePropensity
from streamer import Features, Model, Tensors, Worker
from workers.purchase_propensity.model import Network, Parameters, encode
from workers.purchase_propensity.windows import WINDOWS, bought


class PurchasePropensityWorker(Worker[InvoiceEvent, PurchasePropensity]):
    """Answers every purchase of a known customer with the probability of the next one. The windows count cancellations,
    which get no answer."""

    name = "purchase-propensity"
    source = InvoiceEvent.topic
    target = PURCHASE_PROPENSITIES
    event = InvoiceEvent
    answer = PurchasePropensity
    model = "purchase-propensity"
    windows = WINDOWS
    example = InvoiceEvent(
        event_id="example",
        occurred_at=datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
        invoice_id="example",
        customer_id="example",
        lines=(InvoiceLine(article="85123A", pieces=6, price=2.55),),
    )

    def load(self, model: Model, device: torch.device) -> None:
        network = Network(model.parameters(Parameters).width)
        model.fill(network)
        self._network = network.eval().to(device)

    def encode(self, events: Sequence[InvoiceEvent], features: Sequence[Features]) -> Tensors:
        return encode(features)

    def predict(self, tensors: Tensors) -> Tensors:
        return {"probability": self._network(tensors["known"]).sigmoid()}

    def decode(self, events: Sequence[InvoiceEvent], outputs: Tensors) -> list[dict[str, Any]]:
        return [{"probability": probability} for probability in outputs["probability"].tolist()]

    def feature_key(self, event: InvoiceEvent) -> str | None:
        return event.customer_id

    def accepts(self, event: InvoiceEvent) -> bool:
        return event.customer_id is not None and bool(bought(event))

    def words(self, answer: PurchasePropensity) -> str:
        return f"buys again within 28 days with {answer.probability:.0%}"
