"""Model folders: what was written is found again, and whatever is not what was written is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, ValidationError

from streamer.errors import BadConfig
from streamer.models import Description, Manifest, Model, find, manifest, write
from tests.model_folders import FILES, WEIGHTS, description, edit, flip, truncate


class Sizes(BaseModel):
    width: int


def replace_weights(folder: Path, content: bytes) -> None:
    """New weights that the manifest vouches for: only the parser can refuse them."""
    old = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, hashlib.sha256(old).hexdigest(), hashlib.sha256(content).hexdigest())
    edit(folder, f"bytes = {len(old)}", f"bytes = {len(content)}")


def test_what_was_written_is_found(models: Path) -> None:
    model = find(models, "demo")

    assert (model.name, model.version) == ("demo", "v1")
    assert model.manifest is not None
    assert model.manifest.model_dump(include=set(Description.model_fields)) == description().model_dump()
    assert type(model.manifest.parameters["tied"]) is bool
    assert torch.equal(model.tensors()["line"], WEIGHTS["line"])
    assert model.file("words.json") == FILES["words.json"]


def test_digest_is_that_of_the_manifest_and_changes_with_any_file(models: Path, folder: Path) -> None:
    write(models, description(), WEIGHTS, {"words.json": b'["a", "c"]'})
    write(models, description(), {"line": WEIGHTS["line"] + 1}, FILES)

    assert find(models, "demo", "v1").digest == hashlib.sha256((folder / "model.toml").read_bytes()).hexdigest()
    assert len({find(models, "demo", version).digest for version in ("v1", "v2", "v3")}) == 3


def test_latest_is_the_highest_number_not_the_last_name(models: Path) -> None:
    for _ in range(9):
        last = write(models, description(), WEIGHTS, {})

    assert last.name == "v10"
    assert find(models, "demo").version == "v10"
    assert find(models, "demo", "v2").version == "v2"


def test_a_written_model_can_be_read_by_other_users(folder: Path) -> None:
    assert folder.stat().st_mode & 0o555 == 0o555


def test_a_write_that_breaks_leaves_no_version(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        write(models, description(), WEIGHTS, FILES)

    assert find(models, "demo").version == "v1"


def test_a_worker_without_files_has_an_empty_model() -> None:
    model = Model.none("rules")

    assert (model.name, model.version, model.digest, model.manifest) == ("rules", "0", "", None)
    assert model.tensors() == {}
    with pytest.raises(BadConfig, match=r"no file 'words.json'"):
        model.file("words.json")
    with pytest.raises(BadConfig, match=r"set models.dir"):
        model.parameters(Sizes)


def grow(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as weights:
        weights.write(b"\0")


def link_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "elsewhere")
    weights.symlink_to("elsewhere")


def link_version(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to("elsewhere")


def link_model(folder: Path) -> None:
    home = folder.parent
    home.rename(home.parent / "elsewhere")
    home.symlink_to("elsewhere")


def pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "bytes, its manifest says"),
        (grow, "more than the .* expected"),
        (flip, r"model.safetensors is not the file that was trained"),
        (lambda folder: (folder / "words.json").write_bytes(b'["a", "x"]'), r"words.json is not the file"),
        (lambda folder: (folder / "words.json").unlink(), r"words.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model.safetensors is missing"),
        (lambda folder: (folder / "model.toml").unlink(), r"model.toml is missing"),
        (lambda folder: (folder / "model.toml").write_bytes(b"\xff\xfe junk"), "is not TOML"),
        (lambda folder: (folder / "model.toml").write_text("name ="), "is not TOML"),
        (lambda folder: (folder / "model.toml").write_text("seed = 1"), "is not a manifest"),
        (lambda folder: (folder / "model.toml").write_bytes(b"#" * (2 << 20)), "more than the 1048576 expected"),
        (lambda folder: edit(folder, "seed = 7", "seed = 7\nowner = 'me'"), "owner: Extra inputs"),
        (lambda folder: edit(folder, 'name = "demo"', 'name = "other"'), "holds other v1"),
        (lambda folder: edit(folder, 'version = "v1"', 'version = "v2"'), "holds demo v2"),
        (lambda folder: edit(folder, '"words.json"', '"../../words.json"'), "is not a manifest: files"),
        (lambda folder: edit(folder, '"words.json"', '"/etc/hostname"'), "is not a manifest: files"),
        (link_weights, "a link is refused"),
        (link_version, "v1 is a symbolic link"),
        (link_model, "demo is a symbolic link"),
        (lambda folder: (folder / "model.safetensors").chmod(0o666), r"chmod o-w .*model.safetensors"),
        (lambda folder: (folder / "words.json").chmod(0o646), r"chmod o-w .*words.json"),
        (lambda folder: folder.chmod(0o777), r"chmod o-w .*v1"),
        (lambda folder: folder.parent.chmod(0o757), r"chmod o-w .*demo"),
        (lambda folder: (folder / "model.pt").write_bytes(b""), "may be a pickle"),
        (lambda folder: (folder / "Optimizer.PKL").write_bytes(b""), "may be a pickle"),
        (lambda folder: edit(folder, '"words.json"', '"words.joblib"'), "may be a pickle"),
        (
            lambda folder: edit(folder, "header_bytes = 64", "header_bytes = 72"),
            "header of 64 bytes, model.toml says 72",
        ),
        (lambda folder: edit(folder, "[2, 3]", "[3, 2]"), r"'line' is F16 \[2, 3\], not is F16 \[3, 2\]"),
        (lambda folder: edit(folder, '"F16"', '"BF16"'), r"'line' is F16 \[2, 3\], not is BF16"),
        (lambda folder: edit(folder, '"line"', '"lime"'), r"'lime' is missing, not is F16"),
        (lambda folder: edit(folder, "shape = [2, 3]", f"shape = {[1] * 9}"), "tensors.line.shape"),
        (lambda folder: edit(folder, "bytes = 84", f"bytes = {17 << 30}"), "is not a manifest: bytes"),
        (pipe, "is not a regular file"),
    ],
)
def test_a_damaged_folder_is_refused(
    models: Path, folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)

    with pytest.raises(BadConfig, match=message):
        find(models, "demo")


def huge_header() -> bytes:
    header = b"{" + b" " * (2 << 20) + b"}"
    return len(header).to_bytes(8, "little") + header


def weights_of(header: str, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "claims a header"),
        ((2**63).to_bytes(8, "little") + b"{}", "claims a header"),
        (huge_header(), "claims a header of 2097154 bytes"),
        ((4).to_bytes(8, "little") + b"junk", "is not a safetensors file"),
        (weights_of("[" * 100_000), "is not a safetensors file"),
        (weights_of('{"line": null}'), "is not a safetensors file"),
        (
            weights_of(f'{{"line?": {entry(0, 8, [2])}}}', b"\0" * 8).replace(b"line?", b"l\xed\xa0\x80e"),
            "is not a safetensors file",
        ),
        (weights_of('{"__metadata__": {"a": 1}}'), "is not a safetensors file"),
        (weights_of(f'{{"line": {entry(0, 36, [9])}}}'), "'line' is not where|do not fill"),
        (weights_of(f'{{"line": {entry(0, 8, [2])}, "line": {entry(0, 8, [2])}}}', b"\0" * 8), "is not a safetensors"),
        (weights_of(f'{{"a": {entry(0, 8, [2])}, "b": {entry(4, 12, [2])}}}', b"\0" * 12), "'b' is not where"),
        (weights_of(f'{{"a": {entry(0, 8, [2])}, "b": {entry(12, 20, [2])}}}', b"\0" * 20), "'b' is not where"),
        (weights_of(f'{{"line": {entry(0, 8, [3])}}}', b"\0" * 8), "'line' is not where"),
        (weights_of(f'{{"line": {entry(0, 8, [2])}}}', b"\0" * 9), "do not fill"),
        (weights_of(f'{{"line": {entry(8, 0, [-2])}}}'), "no sensible shape"),
        (weights_of(f'{{"line": {entry(0, 0, [0] * 9)}}}'), "no sensible shape"),
        (weights_of(f'{{"line": {entry(0, 1, [1], "PICKLE")}}}', b"\0"), "is not a safetensors file"),
        (
            weights_of("{" + ", ".join(f'"t{n}": {entry(0, 0, [0])}' for n in range(10_001)) + "}"),
            "has 10001 tensors",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_weights_that_are_vouched_for_but_broken_are_refused(
    models: Path, folder: Path, content: bytes, message: str
) -> None:
    replace_weights(folder, content)

    with pytest.raises(BadConfig, match=message):
        find(models, "demo")


def test_what_a_group_may_write_is_no_matter(models: Path, folder: Path) -> None:
    """With umask 002 every checkout is like that."""
    for path in (folder.parent, folder, *folder.iterdir()):
        path.chmod(path.stat().st_mode | stat.S_IWGRP)

    assert find(models, "demo").version == "v1"


def test_a_folder_that_is_swapped_while_it_is_read_changes_nothing(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = write(models / "evil", description(), {"line": WEIGHTS["line"] + 1}, FILES)
    honest = manifest.parse

    def swap(text: bytes) -> Manifest:
        folder.rename(folder.parent / "elsewhere")
        evil.rename(folder)
        return honest(text)

    monkeypatch.setattr(manifest, "parse", swap)

    assert torch.equal(find(models, "demo").tensors()["line"], WEIGHTS["line"])


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("nobody", "latest", "no version of model nobody"),
        ("demo", "v2", "has no version 'v2'; there is v1"),
        ("demo", "../v1", "has no version"),
        ("../demo", "latest", "is no model name"),
        ("", "latest", "is no model name"),
    ],
)
def test_a_model_that_is_not_there_is_named(models: Path, name: str, version: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        find(models, name, version)


def test_a_swap_after_the_check_changes_nothing(models: Path, folder: Path) -> None:
    model = find(models, "demo")
    flip(folder)

    assert torch.equal(model.tensors()["line"], WEIGHTS["line"])


def test_parameters_and_weights_that_do_not_fit_the_worker_are_refused(models: Path) -> None:
    class Other(BaseModel):
        depth: int

    model = find(models, "demo")

    assert model.parameters(Sizes).width == 8
    with pytest.raises(BadConfig, match="depth: Field required"):
        model.parameters(Other)
    with pytest.raises(BadConfig, match="do not fit the network"):
        model.fill(torch.nn.Linear(3, 2))


def test_fill_copies_half_weights_into_a_single_precision_network(tmp_path: Path) -> None:
    trained = torch.nn.Linear(3, 2)
    halves = {name: tensor.half() for name, tensor in trained.state_dict().items()}
    write(tmp_path, description(), halves, {})
    network = torch.nn.Linear(3, 2)
    find(tmp_path, "demo").fill(network)

    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight, trained.weight.half().float())


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
def test_a_file_name_with_a_folder_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="files"):
        write(tmp_path, description(), WEIGHTS, {name: b""})

    with pytest.raises(BadConfig):
        find(tmp_path, "demo")


@pytest.mark.parametrize("name", ["model.toml", "model.safetensors", "model.sig"])
def test_an_extra_file_cannot_take_the_place_of_the_model(models: Path, name: str) -> None:
    fields = find(models, "demo").manifest
    assert fields is not None
    with pytest.raises(ValidationError, match="may not be listed"):
        Manifest.model_validate({**fields.model_dump(), "files": {name: "0" * 64}})


def test_a_tensor_may_have_any_name(tmp_path: Path) -> None:
    """Found by fuzzing: a name beyond 16 bits was written as two halves, which is no TOML."""
    write(tmp_path, description(), {"weight\x7f 😀": WEIGHTS["line"]}, {})

    assert list(find(tmp_path, "demo").tensors()) == ["weight\x7f 😀"]
