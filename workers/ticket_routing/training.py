"""Train ticket routing: `python -m workers.ticket_routing.training --data banking77`.

Everything is learned from the training texts alone: the subwords (byte pair encoding, R. Sennrich et al., ACL
2016) and the network. Against overfitting: dropout, label smoothing, subwords blanked out, and typing errors that are
new in each epoch, so the network sees a word split in several ways.
"""

from __future__ import annotations

import argparse
import json
import random
from datetime import date
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn

from schemas import TicketEvent
from streamer.models import Description, write
from workers.datasets import read
from workers.ticket_routing.model import PAD, UNKNOWN, Network, Parameters, tokens_of

EPOCHS = 20
BATCH = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.01
DROPOUT = 0.5
BLANKED = 0.1
SMOOTHING = 0.1
TYPING_ERRORS = 0.15
"""The share of words that lose one letter."""

VOCABULARY, DIMENSION, FILTERS, WIDTHS = 4000, 160, 192, 4


def examples(data: Path, split: str) -> tuple[list[str], list[str]]:
    """Texts and intents of `train` or `test`, in the order of the file (.csv, or .csv.gz)."""
    plain = data / f"{split}.csv"
    rows = read(plain if plain.is_file() else data / f"{split}.csv.gz", "banking77")
    return [row["text"] for row in rows], [row["category"] for row in rows]


def learn_subwords(texts: list[str]) -> Tokenizer:
    """Byte pair encoding over lower-case text; the same texts give the same subwords."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {PAD: "[PAD]", UNKNOWN: "[UNK]"}
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[special[PAD], special[UNKNOWN]], show_progress=False
        ),
    )
    return tokenizer


def mistype(text: str, chance: random.Random) -> str:
    """The text as somebody in a hurry types it: here and there a word lacks a letter."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) > 2 and chance.random() < TYPING_ERRORS:
            gone = chance.randrange(len(word))
            words[place] = word[:gone] + word[gone + 1 :]
    return " ".join(words)


def fit(tokenizer: Tokenizer, texts: list[str], labels: torch.Tensor, parameters: Parameters, seed: int) -> Network:
    """Train a network on all the texts given; labels are int64 [texts]."""
    torch.manual_seed(seed)
    chance = random.Random(seed)  # noqa: S311 - no secret depends on it
    network = Network(parameters, DROPOUT)
    steps = EPOCHS * -(-len(texts) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    loss_of = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(texts)).tolist()
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            tokens = tokens_of(tokenizer, [mistype(texts[row], chance) for row in rows])
            blanked = (torch.rand(tokens.shape) < BLANKED) & (tokens != PAD)
            loss = loss_of(network(tokens.masked_fill(blanked, UNKNOWN)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}/{EPOCHS}: training loss {total / len(texts):.4f}", flush=True)
    return network.eval()


def as_stored(network: Network) -> dict[str, torch.Tensor]:
    """The weights in half precision; the network keeps them too, so the shipped weights are the measured ones."""
    halves = {name: tensor.half() for name, tensor in network.state_dict().items()}
    network.load_state_dict(halves)
    return halves


@torch.inference_mode()
def accuracy(network: Network, tokenizer: Tokenizer, texts: list[str], labels: torch.Tensor) -> float:
    """The share of texts whose best intent is the right one."""
    found = network(tokens_of(tokenizer, texts)).argmax(1)
    return float((found == labels).float().mean())


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    try:
        texts, answers = examples(options.data, "train")
        test_texts, test_answers = examples(options.data, "test")
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    intents = sorted(set(answers))
    labels = torch.tensor([intents.index(answer) for answer in answers])
    test_labels = torch.tensor([intents.index(answer) for answer in test_answers])
    tokenizer = learn_subwords(texts)
    parameters = Parameters(
        vocabulary=tokenizer.get_vocab_size(),
        dimension=DIMENSION,
        filters=FILTERS,
        widths=WIDTHS,
        intents=len(intents),
    )
    print(f"train on {len(texts)} texts, test on {len(test_texts)}, {len(intents)} intents", flush=True)
    network = fit(tokenizer, texts, labels, parameters, options.seed)
    tensors = as_stored(network)
    metrics = {"test_accuracy": round(accuracy(network, tokenizer, test_texts, test_labels), 4)}
    print(f"test accuracy {metrics['test_accuracy']:.4f}", flush=True)
    description = Description(
        name="ticket-routing",
        input_schema=TicketEvent.__name__,
        trained_on=f"Banking77: all {len(texts)} training texts, none of the test texts",
        seed=options.seed,
        created=date.today(),
        metrics=metrics,
        parameters=parameters.model_dump(),
    )
    files = {"tokenizer.json": tokenizer.to_str().encode(), "intents.json": json.dumps(intents, indent=0).encode()}
    print(f"wrote {write(options.out, description, tensors, files)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.ticket_routing.training",
        description="Train the network that finds a message's intent and write it as the next version of "
        "ticket-routing. Takes about six minutes on one core and says how good it is on the test texts.",
        epilog="example: python -m workers.ticket_routing.training --data banking77 --out models",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv, plain or .gz")
    parser.add_argument("--out", type=Path, default=Path("workers/models"), help="models folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same weights on CPU (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
