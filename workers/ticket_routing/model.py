"""The network of ticket routing: convolutions over subwords, after Y. Kim, "Convolutional Neural Networks
for Sentence Classification" (EMNLP 2014), with the sum of the subwords beside them as in a bag of words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer
from torch import nn

PAD, UNKNOWN = 0, 1
"""Token ids. Only padding is 0, so a row's length is the number of its other ids."""

TOKENS_MAX = 128
"""A longer text is cut here; the longest of the training texts has 90 subwords."""


class Parameters(BaseModel):
    """`vocabulary` subwords of `dimension` values each, `filters` for each of the `widths` 1, 2, ... subwords."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int
    dimension: int
    filters: int
    widths: int
    intents: int


class Network(nn.Module):
    """Maps token ids to logits. The logits of a text do not depend on the padding of its batch."""

    def __init__(self, parameters: Parameters, dropout: float = 0.0) -> None:
        super().__init__()
        dimension, filters = parameters.dimension, parameters.filters
        widths = range(1, parameters.widths + 1)
        self.table = nn.Embedding(parameters.vocabulary, dimension, padding_idx=PAD)
        # Small values; else the random start outweighs what a few thousand texts can teach.
        nn.init.normal_(self.table.weight[1:], std=0.2)
        self.convolutions = nn.ModuleList(nn.Conv1d(dimension, filters, width, padding=width - 1) for width in widths)
        self.input_dropout = nn.Dropout(dropout / 2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(len(widths) * filters + dimension, parameters.intents)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps ids, int64 [texts, tokens], padded with 0 on the right, to logits, float32 [texts, intents]."""
        lengths = (tokens != PAD).sum(1, keepdim=True)
        # The row of the padding is zero, so padding looks like the zeros that a convolution adds at the end.
        embedded = self.input_dropout(self.table(tokens)).transpose(1, 2)
        parts = [embedded.sum(2) / lengths.sqrt()]
        for extra, convolution in enumerate(self.convolutions):
            found = convolution(embedded).relu()
            # A window without a token must not win: it exists only in a padded batch.
            places = torch.arange(found.shape[2], device=tokens.device)
            parts.append((found * (places < lengths + extra).unsqueeze(1)).amax(2))
        logits: torch.Tensor = self.head(self.dropout(torch.cat(parts, dim=1)))
        return logits


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Ids, int64 [texts, tokens of the longest, at most TOKENS_MAX], padded with 0 on the right."""
    rows = [encoding.ids[:TOKENS_MAX] or [UNKNOWN] for encoding in tokenizer.encode_batch_fast(list(texts))]
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
