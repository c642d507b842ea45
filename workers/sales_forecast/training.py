"""Train the sales forecast: `python -m workers.sales_forecast.training --data online_retail.csv.gz`.

The training uses all days before the first of the six weekly forecasts by which every model is measured: the shipped
weights have seen nothing of the last six weeks, so a replay of them is honest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from schemas.sales import HISTORY_DAYS, HORIZON_DAYS, ArticleDayEvent
from streamer.models import Description, write
from workers.sales_forecast.history import History, load
from workers.sales_forecast.measures import plain, wape
from workers.sales_forecast.model import QUANTILES, Network, Parameters, lengths, scale_of

EPOCHS = 6
BATCH = 1024
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
WIDTH = 64
HIDDEN = 96
EVERY_DAYS = 3
"""Days between the training origins: 3 and 7 have no common factor, so every weekday has its turn."""
FIRST_ORIGIN = 84
"""Before this day, few articles have sold on 20 days."""
SCALE_MAX = 200.0
"""Pieces a day: an article's weight grows with its sales up to this many."""
DAYS_SHARE = 0.3
"""The weight of the seven days' loss beside the loss of their sum."""

Tensors = dict[str, torch.Tensor]


def origins(history: History) -> list[int]:
    """The training origins: their seven days end before the first measured origin."""
    return list(range(FIRST_ORIGIN, history.origins()[0] - HORIZON_DAYS + 1, EVERY_DAYS))


def examples(history: History, origins: Sequence[int]) -> Tensors:
    """`pieces` before, float32 [examples, 56], `weekday` of the first day ahead, and `ahead`, [examples, 8]: the sales
    of each of the seven days, and their sum."""
    windows = [history.window(origin) for origin in origins]
    ahead = torch.cat([after for _, after, _ in windows])
    return {
        "pieces": torch.cat([before for before, _, _ in windows]),
        "weekday": torch.cat([torch.full((len(before),), weekday) for before, _, weekday in windows]),
        "ahead": torch.cat((ahead, ahead.sum(1, keepdim=True)), dim=1),
    }


def pinball(said: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """The loss of quantiles (R. Koenker, G. Bassett, Econometrica 46, 1978): [..., 3] against [...]."""
    over = true[..., None] - said
    levels = torch.tensor(QUANTILES, dtype=said.dtype)
    return torch.maximum(levels * over, (levels - 1) * over)


def loss_of(network: Network, batch: Tensors) -> torch.Tensor:
    """Pinball loss of each output per day that it covers, in pieces: large articles weigh more, as in WAPE."""
    pieces = batch["pieces"]
    lost = pinball(network(pieces, batch["weekday"]), batch["ahead"]) / lengths(pieces)
    of_days, of_sum = lost[:, :HORIZON_DAYS].mean((1, 2)), lost[:, HORIZON_DAYS].mean(1)
    scale = scale_of(pieces)[:, 0]
    weight = scale.clamp(max=SCALE_MAX) / scale
    return ((of_sum + DAYS_SHARE * of_days) * weight).sum() / scale.clamp(max=SCALE_MAX).sum()


def fit(history: History, parameters: Parameters, epochs: int, seed: int) -> Network:
    """Train a network on all training origins."""
    torch.manual_seed(seed)
    network, known = Network(parameters), examples(history, origins(history))
    count = len(known["pieces"])
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=epochs * -(-count // BATCH))
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(count), BATCH):
            loss = loss_of(network, {name: tensor[rows] for name, tensor in known.items()})
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"  epoch {epoch + 1}/{epochs}: training loss {total / count:.4f}", flush=True)
    return network.eval()


@torch.inference_mode()
def measure(history: History, network: Network) -> dict[str, float]:
    """The WAPE of the middle of the sum, and twice the pinball loss of its quantiles over the pieces sold: for the
    middle alone, that is the WAPE."""

    lost = sold = 0.0
    middle: dict[int, torch.Tensor] = {}
    for origin in history.origins():
        before, after, weekday = history.window(origin)
        said, true = network(before, torch.full((len(before),), weekday))[:, HORIZON_DAYS], after.sum(1)
        middle[origin] = said[:, QUANTILES.index(0.5)]
        lost += float(pinball(said, true).mean(1).sum())
        sold += float(true.sum())
    found = {"wape": wape(history, middle.__getitem__), "pinball": 2 * lost / sold}
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    try:
        history = load(options.data)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    for name, found in plain(history).items():
        print(f"{name}: WAPE {found:.4f}")
    parameters = Parameters(kind=options.kind, width=WIDTH, hidden=HIDDEN)
    network = fit(history, parameters, options.epochs, options.seed)
    metrics = measure(history, network)
    print(f"{options.kind}: WAPE {metrics['wape']:.4f}, pinball {metrics['pinball']:.4f}")
    until = history.day(history.origins()[0] - 1)
    description = Description(
        name="sales-forecast",
        input_schema=ArticleDayEvent.__name__,
        trained_on=f"{options.data.name}: the days up to {until}, {HISTORY_DAYS} for every {HORIZON_DAYS} after them",
        seed=options.seed,
        created=date.today(),
        metrics=metrics,
        parameters=parameters.model_dump(),
    )
    print(f"wrote {write(options.out, description, network.state_dict(), files={})}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.sales_forecast.training",
        description="Train the network that forecasts an article's next seven days and write it as the next version of "
        "sales-forecast. It is measured on the last six weeks of the file, which it does not see.",
        epilog="example: python -m workers.sales_forecast.training --data online_retail.csv.gz --out models",
    )
    parser.add_argument("--data", type=Path, required=True, help="Online Retail as CSV, plain or .gz")
    parser.add_argument("--out", type=Path, default=Path("workers/models"), help="models folder (%(default)s)")
    parser.add_argument("--kind", choices=("gru", "cnn"), default="cnn", help="of network (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="rounds over all examples (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same weights on CPU (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
