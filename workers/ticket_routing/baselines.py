"""Measures a linear model on the same texts: `python -m workers.ticket_routing.baselines --data banking77`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from workers.ticket_routing.training import examples


def main() -> None:
    data = _options().data
    texts, intents = examples(data, "train")
    test_texts, test_intents = examples(data, "test")
    vectorisers = {
        "words": TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        "characters": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
    }
    for kind, vectoriser in vectorisers.items():
        model = make_pipeline(vectoriser, LinearSVC(C=0.5)).fit(texts, intents)
        print(f"TF-IDF of {kind}, linear SVM: test accuracy {model.score(test_texts, test_intents):.4f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.ticket_routing.baselines",
        description="Train linear models over TF-IDF on the training texts and measure them on the test texts.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv, plain or .gz")
    return parser.parse_args()


if __name__ == "__main__":
    main()
