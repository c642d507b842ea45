"""Measures simple models on the same invoices: `python -m workers.purchase_propensity.baselines --data ...`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from workers.purchase_propensity.training import measure, read, tell


def main() -> None:
    options = _options()
    known = read(options.data)
    train, test = known.splits()
    features, again = known.features.numpy(), known.again
    tell("recency alone", measure(again[test], -known.since[test]))
    models = {
        "logistic regression": make_pipeline(
            FunctionTransformer(numpy.log1p), StandardScaler(), LogisticRegression(max_iter=2000)
        ),
        "gradient boosting": HistGradientBoostingClassifier(
            max_iter=300, learning_rate=0.05, early_stopping=True, random_state=options.seed
        ),
    }
    for name, model in models.items():
        model.fit(features[train], again[train].numpy())
        tell(name, measure(again[test], torch.from_numpy(model.predict_proba(features[test])[:, 1])))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.purchase_propensity.baselines",
        description="Rank the invoices of the test by recency, logistic regression and gradient boosting, to compare.",
    )
    parser.add_argument("--data", type=Path, required=True, help="Online Retail as CSV, plain or .gz")
    parser.add_argument("--seed", type=int, default=7, help="of gradient boosting (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
