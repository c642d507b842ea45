"""Measures plain forecasts: `python -m workers.sales_forecast.baselines --data online_retail.csv.gz`."""

from __future__ import annotations

import argparse
from pathlib import Path

from workers.sales_forecast.history import load
from workers.sales_forecast.measures import plain


def main() -> None:
    options = _options()
    try:
        history = load(options.data)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    days = [history.day(origin).isoformat() for origin in history.origins()]
    print(f"{len(history.articles)} articles; forecasts from {', '.join(days)} on, of the next seven days together")
    for name, found in plain(history).items():
        print(f"{name}: WAPE {found:.4f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.sales_forecast.baselines",
        description="Forecast the last six weeks of the file by last week and by the mean of 28 days, to compare.",
    )
    parser.add_argument("--data", type=Path, required=True, help="Online Retail as CSV, plain or .gz")
    return parser.parse_args()


if __name__ == "__main__":
    main()
