"""`streamer schema`: what is on each topic, as JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas import EVENTS, Prediction
from streamer.cli.common import print_json

app = typer.Typer(help="What is on each topic, as JSON Schema.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """What is on each topic, as JSON Schema."""


@app.command("export")
def export(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write one file for each topic; default: print all.")
    ] = None,
) -> None:
    """Export the schema of every event, and of every prediction of the installed workers.

    Example: streamer schema export --out schemas/json
    """
    found = schemas()
    if out is None:
        print_json(found)
        return
    out.mkdir(parents=True, exist_ok=True)
    for topic, schema in found.items():
        path = out / f"{topic}.json"
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


def schemas() -> dict[str, dict[str, Any]]:
    """Topic to the JSON Schema of its records."""
    from streamer import discovery

    found = {event.topic: event.model_json_schema() for event in EVENTS.values()}
    for worker in map(discovery.find, discovery.names()):
        found[worker.source] = worker.event.model_json_schema()
        envelope = Prediction[worker.answer]  # type: ignore[name-defined]
        found[worker.target] = envelope.model_json_schema(mode="serialization")
    return dict(sorted(found.items()))
