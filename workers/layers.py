"""The last layers of several workers' networks."""

from __future__ import annotations

from torch import nn


def two_layers(inputs: int, width: int, dropout: float) -> nn.Sequential:
    """Two hidden layers and one value: float32 [rows, inputs] to [rows, 1]."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 1),
    )
