"""What a model folder says of itself, and whether its weights agree. Nothing in here trusts its input.

`model.toml` pins every byte beside it (sha256), and says once more what the weights hold: names, shapes and types of
the tensors and the size of their header. So a file that another tool wrote is refused with a clear reason. The parser
of safetensors only ever sees a header that has been read and compared before.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

Scalar = bool | int | float | str
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A plain name that starts with a letter or a digit: no folder, no "..", no hidden file.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
DType = Literal[
    "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64"
]  # fmt: skip

SIZES: dict[DType, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
"""Bytes of one element."""

WEIGHTS = "model.safetensors"
MANIFEST = "model.toml"
SIGNATURE = "model.sig"
NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
VERSION = r"^v[1-9][0-9]{0,8}$"
PICKLES = (".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
"""Files that are a pickle, or may hold one: reading a pickle runs the code in it."""

HEADER_MAX = 1 << 20
WEIGHTS_MAX = 16 << 30
"""Bytes. A header is JSON: without a cap, a few bytes could ask for gigabytes. Weights are read into memory."""
TENSORS_MAX = 10_000
FILES_MAX = 64
DIMENSIONS_MAX = 8


class Tensor(BaseModel):
    """One tensor of the weights: its type by safetensors' own name, and its shape."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: DType
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 48)]], Field(max_length=DIMENSIONS_MAX)]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * SIZES[self.dtype]


class Description(BaseModel):
    """What training says of a model: `parameters` are the sizes that rebuild its network."""

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

    `sha256`, `bytes`, `header_bytes` and `tensors` describe the weights; `files` maps every further file to its sha256.
    """

    version: Annotated[str, StringConstraints(pattern=VERSION)]
    sha256: Sha256
    bytes: Annotated[int, Field(gt=0, le=WEIGHTS_MAX)]
    header_bytes: Annotated[int, Field(gt=0, le=HEADER_MAX)]
    files: Annotated[dict[FileName, Sha256], Field(max_length=FILES_MAX)]
    tensors: Annotated[dict[str, Tensor], Field(max_length=TENSORS_MAX)]

    @field_validator("files")
    @classmethod
    def _only_further_files(cls, files: dict[str, str]) -> dict[str, str]:
        if reserved := {WEIGHTS, MANIFEST, SIGNATURE} & files.keys():
            raise ValueError(f"{', '.join(sorted(reserved))} may not be listed")
        if pickles := pickled(sorted(files)):
            raise ValueError(f"{pickles[0]} may be a pickle, which runs code when it is read; keep it elsewhere")
        return files


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: DType
    shape: list[int]
    data_offsets: tuple[int, int]


def pickled(names: Sequence[str]) -> list[str]:
    """The names of files that may be pickles."""
    return [name for name in names if name.lower().endswith(PICKLES)]


def parse(text: bytes) -> Manifest:
    """The manifest that `model.toml` holds.

    Raises:
        ValueError: it is not UTF-8, not TOML, or (`pydantic.ValidationError`) not a manifest.
    """
    return Manifest.model_validate(table(text))


def table(text: bytes) -> dict[str, Any]:
    """TOML as nested tables.

    Raises:
        ValueError: it is not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(text.decode())
    except RecursionError as error:
        raise ValueError("is nested too deep") from error


def header_bytes(weights: bytes) -> int:
    """The length that a safetensors file states for its header.

    Raises:
        ValueError: it is zero, or longer than the file, or than any header of ours.
    """
    claimed = int.from_bytes(weights[:8], "little")
    if not 0 < claimed <= min(HEADER_MAX, len(weights) - 8):
        raise ValueError(f"claims a header of {claimed} bytes")
    return claimed


def header(weights: bytes) -> dict[str, Tensor]:
    """What a safetensors file says it holds, read without the parser of safetensors.

    Raises:
        ValueError: it is no such file: the header is no JSON of its kind, or the tensors overlap, leave a gap or do not
            fill the file.
    """
    length = header_bytes(weights)
    try:
        text = weights[8 : 8 + length].decode()  # json itself would let halves of surrogate pairs through
        entries = json.loads(text, object_pairs_hook=_unique)
        if isinstance(entries, dict):
            msgspec.convert(entries.pop("__metadata__", {}), dict[str, str])
        found = msgspec.convert(entries, dict[str, _Entry])
    except (ValueError, RecursionError) as error:  # what msgspec refuses is a ValueError too
        raise ValueError(f"is not a safetensors file: its header is not one ({type(error).__name__})") from error
    if len(found) > TENSORS_MAX:
        raise ValueError(f"is not a safetensors file of ours: it has {len(found)} tensors, more than {TENSORS_MAX}")
    tensors = {}
    end = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        try:
            tensors[name] = tensor = Tensor(dtype=entry.dtype, shape=entry.shape)
        except ValidationError as error:
            raise ValueError(f"is not a safetensors file of ours: {name!r} has no sensible shape") from error
        if start != end or stop - start != tensor.size:
            raise ValueError(f"is not a safetensors file: {name!r} is not where its type and shape say")
        end = stop
    if end != len(weights) - 8 - length:
        raise ValueError("is not a safetensors file: its tensors do not fill it")
    return tensors


def compare(weights: bytes, manifest: Manifest) -> None:
    """Check that the weights hold exactly what the manifest says.

    Raises:
        ValueError: the first difference.
    """
    held, said = header(weights), manifest.tensors
    for name in sorted(held.keys() | said.keys()):
        if held.get(name) != said.get(name):
            difference = f"{name!r} {_form(held, name)}, not {_form(said, name)}"
            raise ValueError(f"does not hold what {MANIFEST} says: {difference}")
    if (claimed := header_bytes(weights)) != manifest.header_bytes:
        raise ValueError(f"claims a header of {claimed} bytes, {MANIFEST} says {manifest.header_bytes}")


def toml(manifest: Manifest) -> str:
    """`model.toml`, which `parse` reads back."""
    fields = manifest.model_dump()
    tables = {name: fields.pop(name) for name in ("metrics", "parameters", "files", "tensors")}
    lines = [f"{key} = {_value(value)}" for key, value in fields.items()]
    for name, values in tables.items():
        lines += ["", f"[{name}]", *(f"{_value(key)} = {_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _form(tensors: dict[str, Tensor], name: str) -> str:
    tensor = tensors.get(name)
    return f"is {tensor.dtype} {tensor.shape}" if tensor else "is missing"


def _value(value: Scalar | date | dict[str, Any]) -> str:
    """A TOML value; a JSON string, number, boolean or list is one too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) + " }"
    text = value.isoformat() if isinstance(value, date) else json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one character that JSON's strings may hold and TOML's may not
