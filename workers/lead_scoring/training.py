"""Train lead scoring: `python -m workers.lead_scoring.training --data bank-full.csv.gz`.

Three networks are trained the same way on three splits, because the data drift: a random split (as usually
reported), a split by row order (the file is sorted by date: train on the past, test on the future) and the split
whose weights are kept, which holds out every fifth row, so a replay of those rows is honest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn

from schemas import LeadEvent
from streamer.models import Description, write
from workers.datasets import read
from workers.lead_scoring.model import Network, Parameters, encode

EPOCHS = 30
BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
DROPOUT = 0.3
WIDTH = 128
EMBEDDING = 8
WARM_QUANTILE, HOT_QUANTILE = 0.6, 0.9
"""The hottest tenth of the training leads is hot, the next three tenths are warm."""

Tensors = dict[str, torch.Tensor]


def held_out(row_index: int) -> bool:
    """Whether the shipped weights never saw this row of the file (counted from 0): every fifth one."""
    return row_index % 5 == 4


def examples(path: Path) -> tuple[list[LeadEvent], torch.Tensor]:
    """The leads of the file in its order, and their answers: float32 [leads], 1 = yes."""
    rows = read(path, "bank_marketing", delimiter=";")
    leads = [
        LeadEvent.from_row(row, event_id=str(index), occurred_at="2008-05-01T00:00:00Z")
        for index, row in enumerate(rows)
    ]
    return leads, torch.tensor([float(row["y"] == "yes") for row in rows])


def splits(labels: torch.Tensor, seed: int) -> dict[str, tuple[Sequence[int], Sequence[int]]]:
    """Row indices to train and to test on, by the name of the split."""
    rows = range(len(labels))
    random_train, random_test = train_test_split(rows, test_size=0.2, stratify=labels, random_state=seed)
    border = len(rows) * 4 // 5
    return {
        "random": (random_train, random_test),
        "order": (rows[:border], rows[border:]),
        "held_out": ([row for row in rows if not held_out(row)], [row for row in rows if held_out(row)]),
    }


def fit(inputs: Tensors, labels: torch.Tensor, seed: int) -> Network:
    """Train a network on all the rows given."""
    torch.manual_seed(seed)
    network = Network(WIDTH, EMBEDDING, DROPOUT)
    network.standardise_by(inputs["numbers"])
    steps = EPOCHS * -(-len(labels) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    loss_of = nn.BCEWithLogitsLoss()
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.split(torch.randperm(len(labels)), BATCH):
            loss = loss_of(network(inputs["numbers"][rows], inputs["categories"][rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        if (epoch + 1) % 10 == 0:
            print(f"  epoch {epoch + 1}/{EPOCHS}: training loss {total / len(labels):.4f}", flush=True)
    return network.eval()


@torch.inference_mode()
def score(network: Network, inputs: Tensors) -> torch.Tensor:
    """Probabilities, float32 [leads]."""
    logits: torch.Tensor = network(inputs["numbers"], inputs["categories"])
    return logits.sigmoid()


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    try:
        leads, labels = examples(options.data)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    inputs = encode(leads)
    metrics = {}
    for name, (train, test) in splits(labels, options.seed).items():
        print(f"split {name}: train on {len(train)} rows, test on {len(test)}", flush=True)
        seen = {key: tensor[train] for key, tensor in inputs.items()}
        unseen = {key: tensor[test] for key, tensor in inputs.items()}
        network = fit(seen, labels[train], options.seed)
        metrics[f"roc_auc_{name}"] = round(float(roc_auc_score(labels[test], score(network, unseen))), 4)
        print(f"split {name}: ROC AUC {metrics[f'roc_auc_{name}']:.4f}", flush=True)
    warm_from, hot_from = score(network, seen).quantile(torch.tensor([WARM_QUANTILE, HOT_QUANTILE])).tolist()
    parameters = Parameters(
        width=WIDTH, embedding=EMBEDDING, warm_from=round(warm_from, 4), hot_from=round(hot_from, 4)
    )
    description = Description(
        name="lead-scoring",
        input_schema=LeadEvent.__name__,
        trained_on=f"{options.data.name}: the rows whose index (from 0) leaves a rest other than 4 when divided by 5",
        seed=options.seed,
        created=date.today(),
        metrics=metrics,
        parameters=parameters.model_dump(),
    )
    print(f"wrote {write(options.out, description, network.state_dict(), files={})}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.lead_scoring.training",
        description="Train the network that scores leads and write it as the next version of lead-scoring. "
        "Takes about a minute on one core and says how good it is on three splits.",
        epilog="example: python -m workers.lead_scoring.training --data bank-full.csv.gz --out models",
    )
    parser.add_argument("--data", type=Path, required=True, help="bank-full.csv of Bank Marketing, plain or .gz")
    parser.add_argument("--out", type=Path, default=Path("workers/models"), help="models folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same weights on CPU (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
