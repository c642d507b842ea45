"""A small model, and how its folder is damaged."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import torch

from streamer.models import Description

WEIGHTS = {"line": torch.arange(6, dtype=torch.float16).reshape(2, 3)}
FILES = {"words.json": b'["a", "b"]'}


def description(**changes: object) -> Description:
    fields: dict[str, object] = {
        "name": "demo",
        "input_schema": "LeadEvent",
        "trained_on": 'a "quoted" name, a \\ and a line\nbreak: ü 😀',
        "seed": 7,
        "created": date(2024, 5, 1),
        "metrics": {"roc_auc": 0.79, "loss": 1e-05},
        "parameters": {"width": 8, "rate": 0.5, "kind": "small", "tied": True},
    }
    return Description.model_validate({**fields, **changes})


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def flip(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
