"""The sales flow as `make demo-sales` shows it: all is answered, and forecast in the stream as in the backtest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment

CARD = ROOT / "workers" / "sales_forecast" / "README.md"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_all_is_answered_once_and_forecast_as_the_model_card_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sales", "--seconds", "20", "--page", str(tmp_path / "page.html")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    days, forecasts = said["articles' days that were over"].split(", forecast ")
    assert days == forecasts
    assert int(days.replace(",", "")) > 100_000
    assert said["answered twice, dead letters"] == "0, 0"
    assert f"**{float(said['WAPE of the weekly forecasts']):.3f}**" in CARD.read_text()
    assert (tmp_path / "page.html").read_text().count("<svg") == 1
