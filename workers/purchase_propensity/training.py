"""Train purchase propensity: `python -m workers.purchase_propensity.training --data online_retail.csv.gz`.

Split by time: the test uses the invoices of the last 28 days whose next 28 days the file holds; the training uses the
invoices whose next 28 days were over before the first test invoice.
"""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from schemas import InvoiceEvent
from streamer.models import Description, write
from streamer.panes import DAY_S
from workers.purchase_propensity.history import Examples, examples, load
from workers.purchase_propensity.model import Network, Parameters

EPOCHS = 25
BATCH = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
DROPOUT = 0.5
WIDTH = 128


def fit(known: torch.Tensor, again: torch.Tensor, seed: int, epochs: int = EPOCHS) -> Network:
    """Train a network on features, float32 [invoices, 24], and answers, float32 [invoices]."""
    torch.manual_seed(seed)
    network = Network(WIDTH, DROPOUT)
    network.standardise_by(known)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(again) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    loss_of = nn.BCEWithLogitsLoss()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(again)), BATCH):
            loss = loss_of(network(known[rows]), again[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def measure(again: torch.Tensor, said: torch.Tensor) -> dict[str, float]:
    """How well scores, float32 [invoices], rank customers who bought again before the others."""
    return {
        "roc_auc": round(float(roc_auc_score(again, said)), 4),
        "pr_auc": round(float(average_precision_score(again, said)), 4),
    }


def tell(name: str, found: dict[str, float]) -> None:
    """Print one line of a comparison."""
    print(f"{name}: ROC AUC {found['roc_auc']:.4f}, PR AUC {found['pr_auc']:.4f}", flush=True)


def read(path: Path) -> Examples:
    """The examples of the file; without the file, ends the program and says what to do."""
    try:
        return examples(load(path))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    known = read(options.data)
    train, test = known.splits()
    print(f"train on {int(train.sum())} invoices, test on {int(test.sum())} later ones", flush=True)
    network = fit(known.features[train], known.again[train], options.seed)
    with torch.inference_mode():
        metrics = measure(known.again[test], network(known.features[test]))
    tell("the network", metrics)
    until = datetime.fromtimestamp(int(known.day[train].max()) * DAY_S, UTC).date()
    description = Description(
        name="purchase-propensity",
        input_schema=InvoiceEvent.__name__,
        trained_on=f"{options.data.name}: the invoices up to {until}",
        seed=options.seed,
        created=date.today(),
        metrics=metrics,
        parameters=Parameters(width=WIDTH).model_dump(),
    )
    print(f"wrote {write(options.out, description, network.state_dict(), files={})}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.purchase_propensity.training",
        description="Train the network that says whether a customer buys again, and write it as the next version of "
        "purchase-propensity. It is measured on later invoices than it was trained on.",
        epilog="example: python -m workers.purchase_propensity.training --data online_retail.csv.gz --out models",
    )
    parser.add_argument("--data", type=Path, required=True, help="Online Retail as CSV, plain or .gz")
    parser.add_argument("--out", type=Path, default=Path("workers/models"), help="models folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same weights on CPU (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
