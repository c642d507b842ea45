"""Scores how likely a lead is to say yes, before it is called."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from random import Random
from typing import Any, Literal

import torch

from schemas import LEAD_SCORES, LeadEvent, LeadScore
from streamer import Features, Model, Tensors, Worker
from workers.lead_scoring import simulation
from workers.lead_scoring.model import FEATURES, Network, Parameters, encode

_features: Any = attrgetter(*FEATURES)


class LeadScoring(Worker[LeadEvent, LeadScore]):
    """Scores leads that gave their consent; the model card beside this file says how well, and for what not."""

    name = "lead-scoring"
    source = LeadEvent.topic
    target = LEAD_SCORES
    event = LeadEvent
    answer = LeadScore
    model = "lead-scoring"
    example = LeadEvent(
        event_id="example",
        occurred_at=datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
        lead_id="example",
        age=41,
        job="technician",
        marital="married",
        education="secondary",
        default=False,
        balance=1500,
        housing=True,
        loan=False,
        contact="cellular",
        day=5,
        month="may",
        campaign=1,
    )

    def load(self, model: Model, device: torch.device) -> None:
        self._parameters = model.parameters(Parameters)
        network = Network(self._parameters.width, self._parameters.embedding)
        model.fill(network)
        self._network = network.eval().to(device)

    def encode(self, events: Sequence[LeadEvent], features: Sequence[Features]) -> Tensors:
        return encode(events)

    def predict(self, tensors: Tensors) -> Tensors:
        return {"probability": self._network(tensors["numbers"], tensors["categories"]).sigmoid()}

    def decode(self, events: Sequence[LeadEvent], outputs: Tensors) -> list[dict[str, Any]]:
        return [
            {"probability": probability, "band": self._band(probability)}
            for probability in outputs["probability"].tolist()
        ]

    def cache_key(self, event: LeadEvent, features: Features) -> Hashable:
        key: tuple[Hashable, ...] = _features(event)
        return key

    def accepts(self, event: LeadEvent) -> bool:
        return event.consent

    def sample(self, random: Random, number: int) -> LeadEvent:
        return simulation.lead(random, number)

    def words(self, answer: LeadScore) -> str:
        return f"{answer.band}, says yes with {answer.probability:.0%}"

    def _band(self, probability: float) -> Literal["cold", "warm", "hot"]:
        if probability >= self._parameters.hot_from:
            return "hot"
        return "warm" if probability >= self._parameters.warm_from else "cold"
