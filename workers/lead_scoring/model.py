"""The network of lead scoring: embedded categories beside standardised numbers, two hidden layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from schemas.leads import Contact, Education, Job, LeadEvent, Marital, Month, PreviousOutcome
from workers.layers import two_layers

NUMBERS = ("age", "balance", "day", "campaign", "pdays", "previous")
"""The numeric inputs, in the order of the tensor's columns; a missing `pdays` is -1."""

CATEGORIES: dict[str, tuple[object, ...]] = {
    "job": get_args(Job),
    "marital": get_args(Marital),
    "education": get_args(Education),
    "contact": get_args(Contact),
    "month": get_args(Month),
    "poutcome": get_args(PreviousOutcome),
    "default": (False, True),
    "housing": (False, True),
    "loan": (False, True),
    "day": tuple(range(1, 32)),
}
"""The categorical inputs and their values. Index 0 of each is "missing or never seen". The day of the month is
both a number and a category: campaigns were run on certain days."""

FEATURES = tuple(dict.fromkeys((*NUMBERS, *CATEGORIES)))
"""Every field that decides the answer, once."""


class Parameters(BaseModel):
    """`width` of the hidden layers, `embedding` values for each category; a probability from `warm_from` on is warm,
    from `hot_from` on hot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    embedding: int
    warm_from: float
    hot_from: float


class Network(nn.Module):
    """Maps leads to logits.

    The mean and deviation of the numbers are part of the weights, so a caller passes raw values.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    first: torch.Tensor

    def __init__(self, width: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [len(values) + 1 for values in CATEGORIES.values()]
        numbers = len(NUMBERS) + 1
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))
        # All categories share one table, so one lookup serves them all: each starts where the one before ends.
        self.register_buffer("first", torch.tensor([0, *sizes]).cumsum(0)[:-1], persistent=False)
        self.table = nn.Embedding(sum(sizes), embedding)
        self.layers = two_layers(len(sizes) * embedding + numbers, width, dropout)

    def standardise_by(self, numbers: torch.Tensor) -> None:
        """Learn mean and deviation from raw training numbers, float32 [leads, 6]."""
        spread = _spread(numbers)
        self.mean.copy_(spread.mean(0))
        self.deviation.copy_(spread.std(0).clamp(min=1e-6))

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Maps raw numbers, float32 [leads, 6], and category indices, int64 [leads, 10], to logits, float32 [leads]."""
        standard = (_spread(numbers) - self.mean) / self.deviation
        embedded: torch.Tensor = self.table(categories + self.first).flatten(1)
        logits: torch.Tensor = self.layers(torch.cat((embedded, standard), dim=1))
        return logits.squeeze(1)


def encode(leads: Sequence[LeadEvent]) -> dict[str, torch.Tensor]:
    """`numbers`, float32 [leads, 6], and `categories`, int64 [leads, 10]; built by column, which is fastest."""
    numbers = [
        [lead.age for lead in leads],
        [lead.balance for lead in leads],
        [lead.day for lead in leads],
        [lead.campaign for lead in leads],
        [-1 if lead.pdays is None else lead.pdays for lead in leads],
        [lead.previous for lead in leads],
    ]
    categories = [[index.get(getattr(lead, name), 0) for lead in leads] for name, index in _INDEX.items()]
    return {
        "numbers": torch.tensor(numbers, dtype=torch.float32).T.contiguous(),
        "categories": torch.tensor(categories, dtype=torch.int64).T.contiguous(),
    }


_INDEX: dict[str, dict[object, int]] = {
    name: {value: place for place, value in enumerate(values, start=1)} for name, values in CATEGORIES.items()
}


def _spread(numbers: torch.Tensor) -> torch.Tensor:
    """Raw columns on scales that suit a network, float32 [leads, 7]: money and counts by their (signed) logarithm,
    and whether `pdays` is missing as a column of its own."""
    age, balance, day, campaign, pdays, previous = numbers.unbind(1)
    return torch.stack(
        (
            age,
            balance.sign() * balance.abs().log1p(),
            day,
            campaign.log(),
            pdays.clamp(min=0).log1p(),
            (pdays < 0).to(numbers.dtype),
            previous.log1p(),
        ),
        dim=1,
    )
