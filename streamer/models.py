"""Model folders: what a worker loads, and the proof that it is what was trained.

A version is one folder, written once and never changed:

    <models.dir>/<name>/<version>/model.safetensors   the weights
    <models.dir>/<name>/<version>/model.toml          what is known of them, and the sha256 of every other file

Nothing is parsed before it is verified, and what is parsed are the very bytes that were hashed, so that a file
swapped in between cannot slip in. Weights are safetensors alone: reading them cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Self, TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from safetensors import SafetensorError

from streamer.errors import BadConfig

Scalar = bool | int | float | str
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A plain name that starts with a letter or a digit: no folder, no "..", no hidden file.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
B = TypeVar("B", bound=BaseModel)

WEIGHTS = "model.safetensors"
MANIFEST = "model.toml"
NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
VERSION = r"^v[1-9][0-9]{0,8}$"

MANIFEST_MAX = 1 << 20
HEADER_MAX = 1 << 20
FILE_MAX = 64 << 20
"""Bytes. The header of a safetensors file is JSON: without a cap, a few bytes could ask for gigabytes."""


class Description(BaseModel):
    """What training knows of a model: `parameters` are the sizes that rebuild its network."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, StringConstraints(pattern=NAME)]
    input_schema: Annotated[str, StringConstraints(min_length=1)]
    trained_on: str
    seed: int
    created: date
    metrics: dict[str, float]
    parameters: dict[str, Scalar]


class Manifest(Description):
    """The whole of `model.toml`: the description, and what pins the files beside it.

    `sha256` and `bytes` are those of the weights, `files` maps every further file to its sha256.
    """

    version: Annotated[str, StringConstraints(pattern=VERSION)]
    sha256: Sha256
    bytes: Annotated[int, Field(gt=0)]
    files: dict[FileName, Sha256]

    @field_validator("files")
    @classmethod
    def _only_further_files(cls, files: dict[str, str]) -> dict[str, str]:
        if reserved := {WEIGHTS, MANIFEST} & files.keys():
            raise ValueError(f"{', '.join(sorted(reserved))} may not be listed")
        return files


@dataclass(frozen=True)
class Model:
    """One verified version. `digest` is the sha256 of `model.toml`, which pins all other files, so it covers
    everything. It holds the verified bytes: drop it once the worker has loaded.
    """

    name: str
    version: str
    digest: str
    manifest: Manifest | None
    _weights: bytes = field(default=b"", repr=False)
    _files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def none(cls, name: str) -> Self:
        """The model of a worker that needs no files."""
        return cls(name, version="0", digest="", manifest=None)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name, on the CPU; empty for a worker without files.

        Raises:
            BadConfig: the bytes are the ones that were trained, yet no safetensors file.
        """
        if not self._weights:
            return {}
        header = int.from_bytes(self._weights[:8], "little")
        if header > min(HEADER_MAX, len(self._weights) - 8):
            raise BadConfig(f"{self}: {WEIGHTS} claims a header of {header} bytes; train the model again")
        try:
            return safetensors.torch.load(self._weights)
        except (SafetensorError, KeyError) as error:
            raise BadConfig(f"{self}: {WEIGHTS} is not a safetensors file ({error}); train it again") from error

    def file(self, name: str) -> bytes:
        """The verified content of a file that the manifest lists under `[files]`.

        Raises:
            BadConfig: the manifest lists no such file.
        """
        if name not in self._files:
            raise BadConfig(f"{self} has no file {name!r}; list it under [files] in {MANIFEST}")
        return self._files[name]

    def parameters(self, shape: type[B]) -> B:
        """The `[parameters]` table as the worker's own pydantic model.

        Raises:
            BadConfig: the model has no manifest, or its parameters do not fit.
        """
        if self.manifest is None:
            raise BadConfig(f"{self.name} cannot work without a model; set models.dir to a folder that has one")
        try:
            return shape.model_validate(self.manifest.parameters)
        except ValidationError as error:
            raise BadConfig(f"{self}: [parameters] do not fit this worker: {_first(error)}") from error

    def fill(self, network: torch.nn.Module) -> None:
        """Copy the weights into a network, which decides the type (half on disk, single in memory).

        Raises:
            BadConfig: names or shapes differ.
        """
        try:
            network.load_state_dict(self.tensors())
        except RuntimeError as error:
            raise BadConfig(f"{self}: the weights do not fit the network of this worker: {error}") from error

    def __str__(self) -> str:
        return f"model {self.name} {self.version}"


def find(models_dir: Path, name: str, version: str = "latest") -> Model:
    """Read and verify one version of a model; `latest` is the one with the highest number.

    Raises:
        BadConfig: it is not there, or not what its manifest says; the message names the cause and the cure.
    """
    if not re.fullmatch(NAME, name):
        raise BadConfig(f"{name!r} is no model name; use small letters, digits and hyphens")
    home = models_dir / name
    there = _versions(home)
    if not there:
        raise BadConfig(f"no version of model {name} in {models_dir}; train one, or set models.dir")
    chosen = there[-1] if version == "latest" else version
    if chosen not in there:
        raise BadConfig(f"model {name} has no version {version!r}; there is {', '.join(there)}")
    folder = home / chosen
    for part in (home, folder):
        if part.is_symlink():
            raise BadConfig(f"{part} is a symbolic link; put the folder itself there")
    text = _read(folder / MANIFEST, MANIFEST_MAX)
    manifest = _manifest(text, folder)
    weights = _read(folder / WEIGHTS, manifest.bytes)
    if len(weights) != manifest.bytes:
        raise BadConfig(
            f"{folder / WEIGHTS} has {len(weights)} bytes, its manifest says {manifest.bytes}; copy it again"
        )
    _verify(folder / WEIGHTS, weights, manifest.sha256)
    files = {}
    for extra, sha256 in manifest.files.items():
        files[extra] = _read(folder / extra, FILE_MAX)
        _verify(folder / extra, files[extra], sha256)
    return Model(name, chosen, hashlib.sha256(text).hexdigest(), manifest, weights, files)


def write(
    models_dir: Path,
    description: Description,
    tensors: Mapping[str, torch.Tensor],
    files: Mapping[str, bytes],
) -> Path:
    """Write the next version of a model and return its folder; it appears whole or not at all."""
    home = models_dir / description.name
    home.mkdir(parents=True, exist_ok=True)
    there = _versions(home)
    version = f"v{int(there[-1][1:]) + 1 if there else 1}"
    weights = safetensors.torch.save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    manifest = Manifest(
        **description.model_dump(),
        version=version,
        sha256=hashlib.sha256(weights).hexdigest(),
        bytes=len(weights),
        files={extra: hashlib.sha256(content).hexdigest() for extra, content in files.items()},
    )
    staging = Path(tempfile.mkdtemp(prefix=".", dir=home))
    for file, content in {**files, WEIGHTS: weights, MANIFEST: _toml(manifest).encode()}.items():
        (staging / file).write_bytes(content)
    staging.chmod(0o755)  # mkdtemp makes it private; a service runs as another user than training
    return staging.rename(home / version)


def _versions(home: Path) -> list[str]:
    """The versions of a model, lowest first: v10 comes after v9."""
    if not home.is_dir():
        return []
    return sorted((path.name for path in home.iterdir() if re.fullmatch(VERSION, path.name)), key=_number)


def _number(version: str) -> int:
    return int(version[1:])


def _read(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes, opened once and never through a link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadConfig(f"{path} is missing: the folder is half copied; copy it again") from error
    except OSError as error:
        raise BadConfig(f"{path} cannot be opened ({error.strerror}); a link is refused, put the file there") from error
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BadConfig(f"{path} is not a regular file; put the file itself there")
        if found.st_size > limit:
            raise BadConfig(f"{path} has {found.st_size} bytes, more than the {limit} expected; copy it again")
        return file.read(limit)


def _verify(path: Path, content: bytes, sha256: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadConfig(f"{path} is not the file that was trained (sha256 differs from {MANIFEST}); copy it again")


def _manifest(text: bytes, folder: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate(tomllib.loads(text.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{folder / MANIFEST} is not TOML ({error}); copy the folder again") from error
    except ValidationError as error:
        raise BadConfig(f"{folder / MANIFEST} is not a manifest: {_first(error)}") from error
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BadConfig(f"{folder} holds {manifest.name} {manifest.version}; put it where its manifest says")
    return manifest


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _toml(manifest: Manifest) -> str:
    fields = manifest.model_dump()
    tables = {name: fields.pop(name) for name in ("metrics", "parameters", "files")}
    lines = [f"{key} = {_value(value)}" for key, value in fields.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{json.dumps(key)} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Scalar | date) -> str:
    """A TOML value; a JSON string, number or boolean is one too."""
    return value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)
