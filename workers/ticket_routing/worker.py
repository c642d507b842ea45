"""Finds what a customer's message is about, to route it to the right team."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from schemas import TICKET_ROUTES, TicketEvent, TicketRoute
from streamer import Features, Model, Tensors, Worker
from workers.ticket_routing import simulation
from workers.ticket_routing.model import TOKENS_MAX, Network, Parameters, tokens_of

CANDIDATES = 3
CHARACTERS_PER_TOKEN = 4
"""English has about 4.6 characters a subword here, so this guesses a little high; odd text may have more."""


class TicketRouting(Worker[TicketEvent, TicketRoute]):
    """Finds the intent of English messages to a bank; the model card beside this file says how well."""

    name = "ticket-routing"
    source = TicketEvent.topic
    target = TICKET_ROUTES
    event = TicketEvent
    answer = TicketRoute
    model = "ticket-routing"
    example = TicketEvent(
        event_id="example",
        occurred_at=datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
        ticket_id="example",
        customer_id="example",
        text="I still have not received my new card, when will it arrive?",
    )

    def load(self, model: Model, device: torch.device) -> None:
        network = Network(model.parameters(Parameters))
        model.fill(network)
        self._network = network.eval().to(device)
        self._tokenizer = Tokenizer.from_buffer(model.file("tokenizer.json"))
        self._intents: list[str] = json.loads(model.file("intents.json"))

    def encode(self, events: Sequence[TicketEvent], features: Sequence[Features]) -> Tensors:
        return {"tokens": tokens_of(self._tokenizer, [event.text for event in events])}

    def predict(self, tensors: Tensors) -> Tensors:
        best = self._network(tensors["tokens"]).softmax(1).topk(CANDIDATES)
        return {"probability": best.values, "intent": best.indices}

    def decode(self, events: Sequence[TicketEvent], outputs: Tensors) -> list[dict[str, Any]]:
        routes = []
        rows = zip(outputs["intent"].tolist(), outputs["probability"].tolist(), strict=True)
        for intents, probabilities in rows:
            candidates = [
                {"intent": self._intents[intent], "probability": probability}
                for intent, probability in zip(intents, probabilities, strict=True)
            ]
            routes.append({"intent": candidates[0]["intent"], "candidates": candidates})
        return routes

    def cost(self, event: TicketEvent) -> int:
        return min(len(event.text) // CHARACTERS_PER_TOKEN + 1, TOKENS_MAX)

    def cache_key(self, event: TicketEvent, features: Features) -> Hashable:
        return (event.text,)

    def accepts(self, event: TicketEvent) -> bool:
        return event.language == "en"

    def sample(self, random: Random, number: int) -> TicketEvent:
        return simulation.ticket(random, number)

    def words(self, answer: TicketRoute) -> str:
        about = answer.intent.strip("?").replace("_", " ").lower()
        return f"about {about} ({answer.candidates[0].probability:.0%} sure)"
