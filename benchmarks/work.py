"""The same work for every contestant: JSON to tensors, a model, JSON. Only the plumbing around it differs.

The networks have seeded random weights: what they say means nothing, what it costs is real.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional

SEED = 7
FEATURES = 16
CLASSES = 77
POSITIONS = 64
WORDS_KNOWN = 4096
WIDTH, HEADS, FEED_FORWARD, LAYERS = 128, 4, 256, 2
SPREAD = 8.0
"""Random weights give almost the same score to everything; a wide last layer makes a swapped answer visible."""

Features16 = tuple[
    float, float, float, float, float, float, float, float, float, float, float, float, float, float, float, float
]  # the length is part of the type, so that the parser checks it


class TabularEvent(msgspec.Struct, gc=False):
    """What the parser takes from a tabular event."""

    event_id: str
    features: Features16


class FlatEvent(msgspec.Struct, gc=False):
    """What the parser takes from a flat event: eleven fields, as a CRM has them."""

    event_id: str
    age: int
    visits: int
    calls: int
    balance: float
    income: float
    discount: float
    days_open: float
    share: float
    channel: Literal["web", "phone", "branch"]
    segment: Literal["new", "known", "lost"]
    plan: Literal["basic", "full"]


class TextEvent(msgspec.Struct, gc=False):
    """What the parser takes from a text event."""

    event_id: str
    text: str


class Output(msgspec.Struct, gc=False):
    """What a contestant publishes for an event."""

    event_id: str
    score: float
    label: int


M = TypeVar("M", bound=nn.Module)


class Answers(NamedTuple):
    """Score and label of each event of a batch, in order."""

    scores: list[float]
    labels: list[int]


class Work(Protocol):
    """Parse, predict, print; `batch_max` is the batch that suits the model on one CPU core."""

    name: str
    batch_max: int

    def run(self, values: Sequence[bytes]) -> list[bytes | None]:
        """One output for each value, in order; None for a broken one (a wrong type, a missing field, cut off)."""


class Network(nn.Module):
    """Three linear layers, 16-256-256-2: float32 (batch, 16) to probabilities (batch, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 256), nn.ReLU(True), nn.Linear(256, 256), nn.ReLU(True), nn.Linear(256, 2)
        )
        with torch.no_grad():
            self.layers[-1].weight.mul_(SPREAD)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features).softmax(1)


class Layer(nn.Module):
    """One encoder layer, norms after the sums, as in "Attention Is All You Need" (arXiv 1706.03762)."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, FEED_FORWARD), nn.Linear(FEED_FORWARD, WIDTH)
        self.norm_attention, self.norm_output = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = states.shape
        split = self.query_key_value(states).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = self.norm_attention(states + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH)))
        return self.norm_output(states + self.narrow(functional.relu(self.wide(states))))


class Encoder(nn.Module):
    """A two-layer Transformer: int64 (batch, up to 64) word ids, 0 = padding, to probabilities (batch, 77)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS_KNOWN + 1, WIDTH)
        self.places = nn.Parameter(torch.randn(POSITIONS, WIDTH) / 10)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.out = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.out.weight.mul_(SPREAD)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        known = words != 0
        states = self.words(words) + self.places[: words.shape[1]]
        mask = torch.zeros(words.shape).masked_fill(~known, float("-inf"))[:, None, None, :]
        for layer in self.layers:
            states = layer(states, mask)
        weights = known.unsqueeze(2).to(states.dtype)
        return self.out((states * weights).sum(1) / weights.sum(1)).softmax(1)


def network() -> Network:
    """The tabular model with its fixed weights, for a process that runs torch on one thread."""
    return _seeded(Network)


def encoder() -> Encoder:
    """The text model with its fixed weights, for a process that runs torch on one thread."""
    return _seeded(Encoder)


def _seeded(kind: Callable[[], M]) -> M:
    torch.set_num_threads(1)  # more would wait for each other, and for the broker, on the cores they share
    torch.manual_seed(SEED)
    return kind().eval()


_pack = struct.Struct(f"{FEATURES}f").pack


def features_tensor(rows: Iterable[Sequence[float]]) -> torch.Tensor:
    """float32 (rows, 16); three times faster than an array of the nested lists."""
    packed = bytearray().join([_pack(*row) for row in rows])
    return torch.from_numpy(np.frombuffer(packed, np.float32).reshape(-1, FEATURES))


ONE_OF = {
    name: tuple(float(name == other) for other in group)
    for group in (("web", "phone", "branch"), ("new", "known", "lost"), ("basic", "full"))
    for name in group
}
"""A word of a flat event as numbers."""


def flat_rows(events: Iterable[Any]) -> list[tuple[float, ...]]:
    """The sixteen numbers of each flat event."""
    return [
        (
            event.age / 100, event.visits / 10, event.calls / 10, event.balance / 1e4, event.income / 1e5,
            event.discount, event.days_open / 365, event.share,
            *ONE_OF[event.channel], *ONE_OF[event.segment], *ONE_OF[event.plan],
        )
        for event in events
    ]  # fmt: skip


def word_ids(text: str) -> list[int]:
    """A number in 1..4096 for each of the first 64 words, the same in every process."""
    return [zlib.crc32(word.encode()) % WORDS_KNOWN + 1 for word in text.split()[:POSITIONS]]


def words_tensor(rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """int64 (rows, width), padded with 0."""
    table = np.zeros((len(rows), width), np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


def tabular_answers(probabilities: torch.Tensor) -> Answers:
    """The score is the probability of class 1."""
    return Answers(probabilities[:, 1].tolist(), probabilities.argmax(1).tolist())


def text_answers(probabilities: torch.Tensor) -> Answers:
    """The score is the highest probability."""
    best = probabilities.max(1)
    return Answers(best.values.tolist(), best.indices.tolist())


class Tabular:
    """A small model on 16 numbers: what is around it costs more than the model."""

    name = "tabular"
    batch_max = 1024
    event: type[msgspec.Struct] = TabularEvent

    def __init__(self) -> None:
        self._network = network()
        self._decode = msgspec.json.Decoder(self.event).decode

    def rows(self, events: Sequence[Any]) -> Sequence[Sequence[float]]:
        """The sixteen numbers of each event."""
        return [event.features for event in events]

    @torch.inference_mode()
    def run(self, values: Sequence[bytes]) -> list[bytes | None]:
        events, broken = parse(self._decode, values)
        if not events:
            return [None] * len(values)
        return printed(events, tabular_answers(self._network(features_tensor(self.rows(events)))), broken)


class Flat(Tabular):
    """The small model on eleven flat fields."""

    name = "flat"
    event = FlatEvent

    def rows(self, events: Sequence[Any]) -> Sequence[Sequence[float]]:
        return flat_rows(events)


class Text:
    """A Transformer on words, each batch padded to all 64 positions: the model costs more than what is around it."""

    name = "text"
    batch_max = 16

    def __init__(self) -> None:
        self._network = encoder()
        self._decode = msgspec.json.Decoder(TextEvent).decode

    @torch.inference_mode()
    def run(self, values: Sequence[bytes]) -> list[bytes | None]:
        events, broken = parse(self._decode, values)
        if not events:
            return [None] * len(values)
        words = words_tensor([word_ids(event.text) for event in events], POSITIONS)
        return printed(events, text_answers(self._network(words)), broken)


def make(name: str) -> Work:
    """The work of that name.

    Raises:
        ValueError: there is none.
    """
    kinds: dict[str, Callable[[], Work]] = {kind.name: kind for kind in (Tabular, Flat, Text)}
    if name not in kinds:
        raise ValueError(f"there is no work {name!r}; there is {', '.join(kinds)}")
    return kinds[name]()


T = TypeVar("T", TabularEvent, FlatEvent, TextEvent)


def parse(decode: Callable[[bytes], T], values: Iterable[bytes]) -> tuple[list[T], list[int]]:
    """The events, and the places of the broken values among all."""
    events: list[T] = []
    broken: list[int] = []
    parsed = map(decode, values)
    while True:
        try:
            events.extend(parsed)  # keeps what came before an error, and goes on behind it
        except msgspec.DecodeError:  # a wrong type too
            broken.append(len(events) + len(broken))
        else:
            return events, broken


_encode = msgspec.json.Encoder().encode


def printed(events: Sequence[Any], answers: Answers, broken: Sequence[int]) -> list[bytes | None]:
    """The outputs as JSON, and None in the places of the broken."""
    outputs: list[bytes | None] = [
        _encode(Output(event.event_id, score, label)) for event, score, label in zip(events, *answers, strict=True)
    ]
    for place in broken:
        outputs.insert(place, None)
    return outputs
