"""`streamer models`: sign a version, or pin one that an older streamer wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamer.cli.common import ConfigFile, Sets, settings

app = typer.Typer(help="Sign the versions of a model, or pin one that an older streamer wrote.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Sign the versions of a model, or pin one that an older streamer wrote."""


@app.command("sign")
def sign(
    name: Annotated[str, typer.Argument(help="The model, a folder of models.dir.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="A private ed25519 key, PEM, without a password.")],
    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="Default: the highest.")] = "latest",
    config_file: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Verify a version and sign it in model.sig. Workers with models.public_key set load only signed versions.

    Example: streamer models sign lead-scoring --key signing.pem
    Keys: openssl genpkey -algorithm ed25519 -out signing.pem; openssl pkey -in signing.pem -pubout -out public.pem
    """
    from streamer import models

    folder = settings(config_file, sets).models.dir
    print(models.sign(folder, models.find(folder, name, version), key))


@app.command("pin")
def pin(
    folder: Annotated[Path, typer.Argument(help="The folder of one version.")],
) -> None:
    """Write model.toml of an older version again, with the names, shapes and types of its weights.

    The weights stay as they are; the digest of the model changes, and a signature is removed.

    Example: streamer models pin workers/models/lead-scoring/v1
    """
    from streamer import models

    models.pin(folder)
    print(folder)
