"""Model folders: what a worker loads, and the proof that it is what was trained.

A version is one folder, written once and never changed:

    <models.dir>/<name>/<version>/model.safetensors   the weights
    <models.dir>/<name>/<version>/model.toml          what is known of them, and the sha256 of every other file
    <models.dir>/<name>/<version>/model.sig           optional: the ed25519 signature of model.toml, 64 bytes

Weights and files are verified before they are parsed; `model.toml` pins them, and its own parser trusts nothing. The
parser gets the very bytes that were hashed, so a file that is swapped in between cannot slip in. Folder and files are
opened once each, and never through a link. Weights are safetensors alone: reading them cannot run code."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from streamer.errors import BadConfig
from streamer.models import manifest as manifests
from streamer.models import signatures
from streamer.models.manifest import MANIFEST, NAME, SIGNATURE, VERSION, WEIGHTS, Description, Manifest

B = TypeVar("B", bound=BaseModel)

MANIFEST_MAX = 1 << 20
FILE_MAX = 64 << 20
"""Bytes."""


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
            BadConfig: the bytes are those that were trained, but no safetensors file.
        """
        if not self._weights:
            return {}
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
        """Copy the weights into a network. The network decides the type (half on disk, single in memory).

        Raises:
            BadConfig: names or shapes differ.
        """
        try:
            network.load_state_dict(self.tensors())
        except RuntimeError as error:
            raise BadConfig(f"{self}: the weights do not fit the network of this worker: {error}") from error

    def __str__(self) -> str:
        return f"model {self.name} {self.version}"


def find(models_dir: Path, name: str, version: str = "latest", public_key: Path | None = None) -> Model:
    """Read and verify one version of a model; `latest` is the one with the highest number. With a file of public keys
    the manifest must be signed by one of them.

    Raises:
        BadConfig: it is not there, or not what its manifest says; the message names the cause and the cure.
    """
    if not re.fullmatch(NAME, name):
        raise BadConfig(f"{name!r} is no model name; use small letters, digits and hyphens")
    home = models_dir / name
    if not home.is_dir():
        raise BadConfig(f"no version of model {name} in {models_dir}; train one, or set models.dir")
    with _opened(home, os.O_DIRECTORY) as outer:
        there = _versions(os.listdir(outer))
        if not there:
            raise BadConfig(f"no version of model {name} in {models_dir}; train one, or set models.dir")
        chosen = there[-1] if version == "latest" else version
        if chosen not in there:
            raise BadConfig(f"model {name} has no version {version!r}; there is {', '.join(there)}")
        with _opened(home / chosen, os.O_DIRECTORY, outer) as inner:
            return _load(home / chosen, inner, public_key)


def write(
    models_dir: Path,
    description: Description,
    tensors: Mapping[str, torch.Tensor],
    files: Mapping[str, bytes],
) -> Path:
    """Write the next version of a model and return its folder. The folder appears whole or not at all."""
    home = models_dir / description.name
    home.mkdir(parents=True, exist_ok=True)
    there = _versions(os.listdir(home))
    version = f"v{int(there[-1][1:]) + 1 if there else 1}"
    weights = safetensors.torch.save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    manifest = Manifest(
        **description.model_dump(),
        version=version,
        sha256=hashlib.sha256(weights).hexdigest(),
        bytes=len(weights),
        header_bytes=manifests.header_bytes(weights),
        files={extra: hashlib.sha256(content).hexdigest() for extra, content in files.items()},
        tensors=manifests.header(weights),
    )
    staging = Path(tempfile.mkdtemp(prefix=".", dir=home))
    for file, content in {**files, WEIGHTS: weights, MANIFEST: manifests.toml(manifest).encode()}.items():
        (staging / file).write_bytes(content)
        (staging / file).chmod(0o644)
    staging.chmod(0o755)  # mkdtemp makes it private; a service runs as another user than training
    return staging.rename(home / version)


def pin(folder: Path) -> None:
    """Write the manifest of an older version again and add what its weights hold. The weights stay as they are.

    Raises:
        BadConfig: the weights are not those of the manifest, or no safetensors file.
    """
    with _opened(folder, os.O_DIRECTORY) as at:
        text = _read(folder / MANIFEST, MANIFEST_MAX, at)
        weights = _read(folder / WEIGHTS, manifests.WEIGHTS_MAX, at)
    try:
        fields = manifests.table(text)
        held = {"header_bytes": manifests.header_bytes(weights), "tensors": manifests.header(weights)}
        manifest = Manifest.model_validate({**fields, **held})
    except ValidationError as error:
        raise BadConfig(f"{folder / MANIFEST} is not a manifest: {_first(error)}") from error
    except ValueError as error:
        raise BadConfig(f"{folder} cannot be pinned: {error}; train the model again") from error
    _verify(folder / WEIGHTS, weights, manifest.sha256)
    _put(folder / MANIFEST, manifests.toml(manifest).encode())
    (folder / SIGNATURE).unlink(missing_ok=True)  # it signs the old manifest


def sign(models_dir: Path, model: Model, private_key: Path) -> Path:
    """Sign a verified version, and return the file of the signature.

    Raises:
        BadConfig: the key is not usable, or the manifest has changed since it was verified.
    """
    folder = models_dir / model.name / model.version
    with _opened(folder, os.O_DIRECTORY) as at:
        text = _read(folder / MANIFEST, MANIFEST_MAX, at)
    if hashlib.sha256(text).hexdigest() != model.digest:
        raise BadConfig(f"{folder / MANIFEST} has changed since it was verified; sign again when nobody writes to it")
    _put(folder / SIGNATURE, signatures.sign(text, private_key))
    return folder / SIGNATURE


def _load(folder: Path, at: int, public_key: Path | None) -> Model:
    if pickles := manifests.pickled(os.listdir(at)):
        raise BadConfig(f"{folder / pickles[0]} may be a pickle, which runs code when it is read; remove it")
    text = _read(folder / MANIFEST, MANIFEST_MAX, at)
    if public_key:
        _signed(folder, at, text, public_key)
    manifest = _manifest(text, folder)
    weights = _read(folder / WEIGHTS, manifest.bytes, at)
    if len(weights) != manifest.bytes:
        raise BadConfig(
            f"{folder / WEIGHTS} has {len(weights)} bytes, its manifest says {manifest.bytes}; copy it again"
        )
    _verify(folder / WEIGHTS, weights, manifest.sha256)
    try:
        manifests.compare(weights, manifest)
    except ValueError as error:
        raise BadConfig(f"{folder / WEIGHTS} {error}; train the model again") from error
    files = {}
    for extra, sha256 in manifest.files.items():
        files[extra] = _read(folder / extra, FILE_MAX, at)
        _verify(folder / extra, files[extra], sha256)
    return Model(manifest.name, manifest.version, hashlib.sha256(text).hexdigest(), manifest, weights, files)


def _signed(folder: Path, at: int, text: bytes, public_key: Path) -> None:
    cure = f"sign it: streamer models sign {folder.parent.name} --version {folder.name} --key FILE"
    if SIGNATURE not in os.listdir(at):
        raise BadConfig(f"{folder} is not signed, and models.public_key is set; {cure}")
    signature = _read(folder / SIGNATURE, signatures.SIGNATURE_BYTES, at)
    if not signatures.verify(text, signature, public_key):
        raise BadConfig(f"{folder / SIGNATURE} is not the signature of {MANIFEST} by a key in {public_key}; {cure}")


def _versions(names: list[str]) -> list[str]:
    """The versions of a model, lowest first: v10 comes after v9."""
    return sorted((name for name in names if re.fullmatch(VERSION, name)), key=_number)


def _number(version: str) -> int:
    return int(version[1:])


@contextmanager
def _opened(path: Path, kind: int, at: int | None = None) -> Iterator[int]:
    """A file or folder, opened once and never through a link; `at` is the opened folder that it is in."""
    what = "folder" if kind == os.O_DIRECTORY else "file"
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path if at is None else path.name, flags | kind, dir_fd=at)
    except FileNotFoundError as error:
        raise BadConfig(f"{path} is missing: the folder is half copied; copy it again") from error
    except OSError as error:
        if path.is_symlink():
            raise BadConfig(f"{path} is a symbolic link; a link is refused, put the {what} itself there") from error
        raise BadConfig(f"{path} cannot be opened ({error.strerror}); give this user the right to read it") from error
    try:
        if os.fstat(handle).st_mode & stat.S_IWOTH:
            raise BadConfig(f"{path} can be changed by every user of this machine: chmod o-w {path}")
        yield handle
    finally:
        os.close(handle)


def _read(path: Path, limit: int, at: int) -> bytes:
    """The content of a regular file of at most `limit` bytes."""
    with _opened(path, 0, at) as handle:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BadConfig(f"{path} is not a regular file; put the file itself there")
        if found.st_size > limit:
            raise BadConfig(f"{path} has {found.st_size} bytes, more than the {limit} expected; copy it again")
        with open(handle, "rb", closefd=False) as file:
            return file.read(limit)


def _put(path: Path, content: bytes) -> None:
    """A file that is whole or not there."""
    with tempfile.NamedTemporaryFile(prefix=".", dir=path.parent, delete=False) as file:
        file.write(content)
    staged = Path(file.name)
    staged.chmod(0o644)
    staged.rename(path)


def _verify(path: Path, content: bytes, sha256: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadConfig(f"{path} is not the file that was trained (sha256 differs from {MANIFEST}); copy it again")


def _manifest(text: bytes, folder: Path) -> Manifest:
    try:
        manifest = manifests.parse(text)
    except ValidationError as error:
        cure = f"; an older one is mended by: streamer models pin {folder}" if _older(error) else ""
        raise BadConfig(f"{folder / MANIFEST} is not a manifest: {_first(error)}{cure}") from error
    except ValueError as error:
        raise BadConfig(f"{folder / MANIFEST} is not TOML ({error}); copy the folder again") from error
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BadConfig(f"{folder} holds {manifest.name} {manifest.version}; put it where its manifest says")
    return manifest


def _older(error: ValidationError) -> bool:
    """Whether the only fault is that the manifest does not say what the weights hold."""
    return all(part["type"] == "missing" and part["loc"][0] in ("header_bytes", "tensors") for part in error.errors())


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
