"""The text model alone, without Kafka, on batches that need no padding: what nobody can pass on one thread."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmarks import events, work

WORDS_MAX = (256, 512, 1_000, 2_000)
"""Sizes of a batch that are tried; the best counts."""


def main() -> None:
    """Print events a second."""
    rows = [work.word_ids(text) for text in events.texts(events.DIFFERENT)]
    network = work.encoder()
    with torch.inference_mode():
        print(max(rate(network, [words for _, words in events.unpadded(rows, size)]) for size in WORDS_MAX))


def rate(network: work.Encoder, batches: Sequence[torch.Tensor]) -> float:
    """Events a second from tensors that are there to answers."""
    network(batches[0])
    began = time.perf_counter()
    for words in batches:
        work.text_answers(network(words))
    return sum(map(len, batches)) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
