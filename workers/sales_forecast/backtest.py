"""Compares the last six weeks' forecasts with the sales: `python -m workers.sales_forecast.backtest --data ...`.

A rolling origin: each Saturday's forecast sees only the days before it, and the shipped weights saw none of the weeks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from schemas.sales import HORIZON_DAYS
from streamer.errors import StreamerError
from streamer.models import find
from workers.sales_forecast.history import History, load
from workers.sales_forecast.measures import PLAIN, plain, wape
from workers.sales_forecast.model import Network, Parameters

SHOWN = 4
"""The number of articles in the plot: the best sellers of the six weeks."""


@dataclass(frozen=True)
class Backtest:
    """For every weekly origin: the articles that were forecast, the quantiles of their seven-day totals, float32
    [articles, 3], and the pieces sold, [articles]."""

    chosen: dict[int, torch.Tensor]
    said: dict[int, torch.Tensor]
    sold: dict[int, torch.Tensor]

    def within(self) -> float:
        """The share of articles' weeks with sales from `low` to `high`: 0.8 if the quantiles are right."""
        said, sold = torch.cat([*self.said.values()]), torch.cat([*self.sold.values()])
        return float(((sold >= said[:, 0]) & (sold <= said[:, 2])).float().mean())


@torch.inference_mode()
def backtest(history: History, network: Network) -> Backtest:
    """Forecast from each of the origins."""
    result = Backtest({}, {}, {})
    for origin in history.origins():
        before, after, weekday = history.window(origin)
        result.chosen[origin] = history.forecast(origin)
        result.said[origin] = network(before, torch.full((len(before),), weekday))[:, HORIZON_DAYS]
        result.sold[origin] = after.sum(1)
    return result


def draw(history: History, result: Backtest, path: Path) -> None:
    """Plot, by week, the sum of all articles beside the plain forecasts, and single articles with their range."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    origins = history.origins()
    weeks = [history.day(origin).strftime("%d %b") for origin in origins]
    figure = Figure(figsize=(8, 9), layout="constrained")
    whole, *singles = figure.subplots(1 + SHOWN, 1, sharex=True)
    whole.plot(weeks, [float(result.sold[origin].sum()) for origin in origins], "k-o", label="sold")
    whole.plot(weeks, [float(result.said[origin][:, 1].sum()) for origin in origins], "-o", label="sum of the middles")
    for name, rule in PLAIN.items():
        whole.plot(weeks, [float(rule(history.window(origin)[0]).sum()) for origin in origins], ":", label=name)
    whole.set_title("Pieces in the seven days from a Saturday on, all articles that are forecast")
    for axes, article in zip(singles, _largest(history, result), strict=True):
        places = [int(result.chosen[origin][:article].sum()) for origin in origins]
        low, middle, high = (
            [float(result.said[origin][place, level]) for origin, place in zip(origins, places, strict=True)]
            for level in range(3)
        )
        sold = [float(result.sold[origin][place]) for origin, place in zip(origins, places, strict=True)]
        axes.plot(weeks, sold, "k-o", label="sold")
        axes.plot(weeks, middle, "-o", label="middle")
        axes.fill_between(weeks, low, high, alpha=0.2, label="low to high")
        axes.set_title(f"article {history.articles[article]}")
    for axes in (whole, *singles):
        axes.set_ylim(bottom=0)
    whole.legend(ncols=2)
    singles[0].legend(ncols=3)
    figure.savefig(path, metadata={"Software": None})


def _largest(history: History, result: Backtest) -> list[int]:
    """The best sellers among the articles that are forecast from every origin."""
    always = torch.stack([*result.chosen.values()]).all(0)
    sold = history.pieces[:, history.origins()[0] :].sum(1) * always
    return [int(place) for place in sold.topk(SHOWN).indices]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    try:
        history = load(options.data)
        model = find(options.models, "sales-forecast", options.version)
        network = Network(model.parameters(Parameters))
        model.fill(network)
    except (FileNotFoundError, StreamerError) as error:
        raise SystemExit(str(error)) from error
    result = backtest(history, network.eval())
    found = {**plain(history), "the network": wape(history, lambda origin: result.said[origin][:, 1])}
    for name, wrong in found.items():
        print(f"{name}: WAPE {wrong:.4f}")
    print(f"{result.within():.1%} of the weeks of articles sold from low to high (80 % if the quantiles are right)")
    if options.plot:
        draw(history, result, options.plot)
        print(f"drew {options.plot}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.sales_forecast.backtest",
        description="Compare the forecasts of the last six weeks with the actual sales.",
    )
    parser.add_argument("--data", type=Path, required=True, help="Online Retail as CSV, plain or .gz")
    parser.add_argument("--models", type=Path, default=Path("workers/models"), help="models folder (%(default)s)")
    parser.add_argument("--version", default="latest", help="of the model (%(default)s)")
    parser.add_argument("--plot", type=Path, help="also draw a plot into this file (.png, .svg; needs matplotlib)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
