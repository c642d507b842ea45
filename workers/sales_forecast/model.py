"""The networks of the sales forecast: from 56 days to quantiles of the next seven.

`gru` reads the days one after the other (K. Cho et al., arXiv 1406.1078); `cnn` is a stack of causal convolutions of
growing dilation (A. van den Oord et al., arXiv 1609.03499). Both end in the same head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn import functional

from schemas.sales import HISTORY_DAYS, HORIZON_DAYS, ArticleDayEvent

QUANTILES = (0.1, 0.5, 0.9)
"""As `schemas.sales.Expected` names them: low, middle, high."""
WEEK = 7
MEANS = (7, 14, 28, 56)
"""Days back over which the head sees the mean, beside the output of the body."""
DILATIONS = (1, 2, 4, 8, 16)
KERNEL = 3
SMALLEST = 0.2
"""The least pieces a day that an article is assumed to sell: the scale of an article that sold none."""

Tensors = dict[str, torch.Tensor]


class Parameters(BaseModel):
    """The `kind` and `width` of the body, and the width of the head's hidden layer, `hidden`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["gru", "cnn"]
    width: int
    hidden: int


class Network(nn.Module):
    """Maps the pieces of 56 days and the weekday after them to quantiles of pieces."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        width, inputs = parameters.width, 3 + WEEK
        self.body: Gru | Cnn = Gru(inputs, width) if parameters.kind == "gru" else Cnn(inputs, width)
        self.head = nn.Sequential(
            nn.Linear(width + HORIZON_DAYS * WEEK + len(MEANS), parameters.hidden),
            nn.SiLU(),
            nn.Linear(parameters.hidden, (HORIZON_DAYS + 1) * len(QUANTILES)),
        )

    def forward(self, pieces: torch.Tensor, weekday: torch.Tensor) -> torch.Tensor:
        """Maps `pieces`, float32 [articles, 56], and `weekday` of the first day ahead, int64 [articles], 0 = Monday, to
        pieces, float32 [articles, 8, 3]: seven days and their sum, each in three quantiles that do not cross."""
        scale = scale_of(pieces)
        days = (weekday[:, None] + torch.arange(-HISTORY_DAYS, HORIZON_DAYS, device=pieces.device)) % WEEK
        weekdays = functional.one_hot(days, WEEK).to(pieces.dtype)
        relative = torch.log1p(pieces / scale)
        said = torch.stack((relative, (pieces > 0).to(pieces.dtype), scale.log().expand_as(pieces) / 4), dim=2)
        read = self.body(torch.cat((said, weekdays[:, :HISTORY_DAYS]), dim=2))
        means = torch.stack([torch.log1p(pieces[:, -days_back:].mean(1) / scale[:, 0]) for days_back in MEANS], dim=1)
        raw = self.head(torch.cat((read, weekdays[:, HISTORY_DAYS:].flatten(1), means), dim=1))
        raw = raw.view(len(pieces), HORIZON_DAYS + 1, len(QUANTILES))
        steps = torch.cat((raw[..., :1], functional.softplus(raw[..., 1:])), dim=2)
        return functional.softplus(steps.cumsum(2)) * scale[..., None] * lengths(pieces)


class Gru(nn.Module):
    """Reads the days one after the other; returns the last state."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.cells = nn.GRU(inputs, width, batch_first=True)

    def forward(self, days: torch.Tensor) -> torch.Tensor:
        """float32 [articles, days, inputs] to [articles, width]."""
        states: torch.Tensor = self.cells(days)[0]
        return states[:, -1]


class Cnn(nn.Module):
    """Causal convolutions that each see more days back, together 63; returns their last output."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dilation in DILATIONS:
            layers += [
                nn.ConstantPad1d(((KERNEL - 1) * dilation, 0), 0.0),
                nn.Conv1d(inputs, width, KERNEL, dilation=dilation),
                nn.SiLU(),
            ]
            inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, days: torch.Tensor) -> torch.Tensor:
        """float32 [articles, days, inputs] to [articles, width]."""
        outputs: torch.Tensor = self.layers(days.transpose(1, 2))
        return outputs[:, :, -1]


def scale_of(pieces: torch.Tensor) -> torch.Tensor:
    """Pieces a day that an article sells, float32 [articles, 1]: the unit of the network's inputs and outputs."""
    return pieces.mean(1, keepdim=True) + SMALLEST


def lengths(like: torch.Tensor) -> torch.Tensor:
    """The number of days of each output of the network, float32 [8, 1]: seven times one, then seven."""
    return torch.tensor([1.0] * HORIZON_DAYS + [float(HORIZON_DAYS)], dtype=like.dtype, device=like.device)[:, None]


def encode(events: Sequence[ArticleDayEvent]) -> Tensors:
    """`pieces`, float32 [events, 56], and `weekday` of the first day ahead, int64 [events]."""
    return {
        "pieces": torch.tensor([event.pieces for event in events], dtype=torch.float32),
        "weekday": torch.tensor([(event.day.weekday() + 1) % WEEK for event in events]),
    }
