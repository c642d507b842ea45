"""Two workers for a GPU: a Transformer that keeps it busy, and a small network that does not.

The networks have random weights: what they say means nothing, what it costs is real. Letters are tokens, so that
what is measured is not a tokeniser.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from schemas import Event
from streamer.records import BUCKETS
from streamer.worker import Features, Tensors, Worker

if TYPE_CHECKING:
    from streamer.models import Model

EXAMPLE_TIME = datetime(2026, 1, 1, 10, tzinfo=UTC)
SEED = 7
LETTERS_MAX = 128
LETTERS_MIN = 8
CLASSES = 77
NUMBERS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz "


class Sizes(NamedTuple):
    """Of the Transformer."""

    layers: int
    width: int
    heads: int


LARGE = Sizes(layers=12, width=768, heads=12)
TINY = Sizes(layers=1, width=16, heads=2)


class Note(Event):
    """A text; the model reads its first 128 letters."""

    text: Annotated[str, Field(min_length=1)]


class Row(Event):
    """Sixteen numbers."""

    numbers: Annotated[list[float], Field(min_length=NUMBERS, max_length=NUMBERS)]


class Score(BaseModel):
    """The answer of both models."""

    score: Annotated[float, Field(ge=0, le=1)]
    label: int


class Layer(nn.Module):
    """One encoder layer, norms before the sums ("On Layer Normalization", arXiv 2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm_attention, self.norm_output = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        rows, length, width = states.shape
        split = self.query_key_value(self.norm_attention(states)).view(rows, length, 3, self._heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        states = states + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return states + self.narrow(functional.gelu(self.wide(self.norm_output(states))))


class Encoder(nn.Module):
    """uint8 (rows, up to 128) letters, 0 = padding, to probabilities (rows, 77)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, sizes.width)
        self.places = nn.Parameter(torch.randn(LETTERS_MAX, sizes.width) / 10)
        self.layers = nn.ModuleList(Layer(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.norm, self.out = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, CLASSES)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        known = letters != 0
        states = self.letters(letters.int()) + self.places[: letters.shape[1]]
        for layer in self.layers:
            states = layer(states, known[:, None, None, :])
        weights = known.unsqueeze(2).to(states.dtype)
        return self.out(self.norm((states * weights).sum(1) / weights.sum(1))).float().softmax(1)


class Network(nn.Module):
    """Three linear layers, 16-256-256-2: float32 (rows, 16) to probabilities (rows, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NUMBERS, 256), nn.ReLU(True), nn.Linear(256, 256), nn.ReLU(True), nn.Linear(256, 2)
        )

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.layers(numbers).softmax(1)


class Read(Worker[Note, Score]):
    """The Transformer, in bfloat16."""

    name = "bench-read"
    source, target = "bench.notes.events.v1", "bench.notes.scores.v1"
    event, answer = Note, Score
    example = Note(event_id="example", occurred_at=EXAMPLE_TIME, text="a few words to begin with")
    graphs = True
    sizes: ClassVar[Sizes] = LARGE

    def load(self, model: Model, device: torch.device) -> None:
        torch.manual_seed(SEED)
        self.network = Encoder(self.sizes).eval().to(device, torch.bfloat16)

    def encode(self, events: Sequence[Note], features: Sequence[Features]) -> Tensors:
        texts = [event.text.encode()[:LETTERS_MAX] for event in events]
        length = BUCKETS[bisect_left(BUCKETS, max(map(len, texts)))]  # few lengths, so that recordings fit
        block = b"".join([text.ljust(length, b"\0") for text in texts])
        return {"letters": torch.from_numpy(np.frombuffer(bytearray(block), np.uint8).reshape(-1, length))}

    def predict(self, tensors: Tensors) -> Tensors:
        return _best(self.network(tensors["letters"]))

    def decode(self, events: Sequence[Note], outputs: Tensors) -> list[dict[str, float]]:
        return _scores(outputs)

    def cost(self, event: Note) -> int:
        return min(len(event.text), LETTERS_MAX)

    def sample(self, random: Random, number: int) -> Note:
        letters = round(random.triangular(LETTERS_MIN, LETTERS_MAX, (LETTERS_MIN + LETTERS_MAX) / 3))
        text = "x" + "".join(random.choices(LETTERS, k=letters - 1))
        return Note(event_id=f"note-{number}", occurred_at=EXAMPLE_TIME, text=text)


class TinyRead(Read):
    """The same so small that a CPU answers at once: to see that all of it works."""

    name = "bench-tiny-read"
    sizes = TINY


class Rate(Worker[Row, Score]):
    """The small network."""

    name = "bench-rate"
    source, target = "bench.rows.events.v1", "bench.rows.scores.v1"
    event, answer = Row, Score
    example = Row(event_id="example", occurred_at=EXAMPLE_TIME, numbers=[0.5] * NUMBERS)
    graphs = True

    def load(self, model: Model, device: torch.device) -> None:
        torch.manual_seed(SEED)
        self.network = Network().eval().to(device)

    def encode(self, events: Sequence[Row], features: Sequence[Features]) -> Tensors:
        numbers = np.array([event.numbers for event in events], np.float32)
        return {"numbers": torch.from_numpy(numbers)}

    def predict(self, tensors: Tensors) -> Tensors:
        return _best(self.network(tensors["numbers"]))

    def decode(self, events: Sequence[Row], outputs: Tensors) -> list[dict[str, float]]:
        return _scores(outputs)

    def sample(self, random: Random, number: int) -> Row:
        numbers = [round(random.gauss(0, 1), 6) for _ in range(NUMBERS)]
        return Row(event_id=f"row-{number}", occurred_at=EXAMPLE_TIME, numbers=numbers)


def _best(probabilities: torch.Tensor) -> Tensors:
    best = probabilities.max(1)
    return {"score": best.values, "label": best.indices}


def _scores(outputs: Tensors) -> list[dict[str, float]]:
    pairs = zip(outputs["score"].tolist(), outputs["label"].tolist(), strict=True)
    return [{"score": score, "label": label} for score, label in pairs]
