"""The network of purchase propensity: two hidden layers over the window features of a customer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from streamer import Features
from workers.layers import two_layers
from workers.purchase_propensity.windows import NAMES

FARTHEST = 4.0
"""Features are clamped to this many deviations from the mean."""


class Parameters(BaseModel):
    """`width` of the hidden layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int


class Network(nn.Module):
    """Maps features to logits. Their mean and deviation are part of the weights, so a caller passes raw values."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(NAMES)))
        self.register_buffer("deviation", torch.ones(len(NAMES)))
        self.layers = two_layers(len(NAMES), width, dropout)

    def standardise_by(self, known: torch.Tensor) -> None:
        """Learn mean and deviation from raw training features, float32 [invoices, 24]."""
        spread = known.clamp(min=0).log1p()
        self.mean.copy_(spread.mean(0))
        self.deviation.copy_(spread.std(0).clamp(min=1e-6))

    def forward(self, known: torch.Tensor) -> torch.Tensor:
        """Maps raw features, float32 [invoices, 24], none below 0, to logits, float32 [invoices]."""
        standard = (known.clamp(min=0).log1p() - self.mean) / self.deviation
        logits: torch.Tensor = self.layers(standard.clamp(-FARTHEST, FARTHEST))
        return logits.squeeze(1)


def encode(features: Sequence[Features]) -> dict[str, torch.Tensor]:
    """`known`, float32 [invoices, 24]; a feature that the store does not have is 0."""
    return {"known": torch.tensor([[known.get(name, 0.0) for name in NAMES] for known in features])}
