"""Measures simple models on the same splits: `python -m workers.lead_scoring.baselines --data bank-full.csv.gz`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from workers.lead_scoring.model import CATEGORIES, NUMBERS, encode
from workers.lead_scoring.training import examples, splits


def main() -> None:
    options = _options()
    leads, labels = examples(options.data)
    inputs = torch.cat(tuple(encode(leads).values()), dim=1).numpy()
    numbers = list(range(len(NUMBERS)))
    categories = list(range(len(NUMBERS), len(NUMBERS) + len(CATEGORIES)))
    answers = labels.numpy()
    for name, (train, test) in splits(labels, options.seed).items():
        train, test = list(train), list(test)
        models = {
            "logistic regression": make_pipeline(
                make_column_transformer(
                    (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), categories)
                ),
                LogisticRegression(max_iter=2000),
            ),
            "gradient boosting": HistGradientBoostingClassifier(
                max_iter=300,
                learning_rate=0.05,
                early_stopping=True,
                categorical_features=categories,
                random_state=options.seed,
            ),
        }
        for kind, model in models.items():
            model.fit(inputs[train], answers[train])
            found = roc_auc_score(answers[test], model.predict_proba(inputs[test])[:, 1])
            print(f"split {name}, {kind}: ROC AUC {found:.4f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.lead_scoring.baselines",
        description="Train logistic regression and gradient boosting on the splits of the training, to compare.",
    )
    parser.add_argument("--data", type=Path, required=True, help="bank-full.csv of Bank Marketing, plain or .gz")
    parser.add_argument("--seed", type=int, default=7, help="as in the training, for the same splits (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
