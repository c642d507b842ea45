"""What the verbs share: options, settings, and how rows are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streamer.errors import Usage
from streamer.settings import Settings, loading
from streamer.settings.secret_files import cure, in_the_open

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings; default: ./streamer.toml or one of the usual places."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, such as kafka.bootstrap_servers=host:9092."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="Stop after N.")]


def overrides(sets: Sequence[str] | None) -> dict[str, str]:
    """The `--set key=value` options.

    Raises:
        Usage: one has no `=`.
    """
    pairs = [text.partition("=") for text in sets or ()]
    for key, _, value in pairs:
        if any(in_the_open({key: value})):
            raise Usage(f"--set {key}: every process of this machine can read arguments; {cure(key)}")
    if wrong := [key for key, equals, _ in pairs if not equals or not key]:
        raise Usage(f"--set {wrong[0]}: write key=value, such as batch.items_max=512")
    return {key: value for key, _, value in pairs}


def settings(config_file: Path | None, sets: Sequence[str] | None) -> Settings:
    """The merged settings of a verb.

    Raises:
        BadConfig: what is wrong with them.
    """
    return loading.load(config_file, overrides(sets))


def print_json(value: Any) -> None:
    """One line of JSON."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table on a terminal; elsewhere tab-separated lines, with the names first. None is shown as an empty cell."""
    if not rows:
        return
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(rows[0]), *cells]:
            print("\t".join(line))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for line in cells:
        table.add_row(*line)
    console = Console()
    console.print(table, markup=False)
