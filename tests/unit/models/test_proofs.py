"""Older manifests are pinned, signed models are told from others, and no source of ours can run what it reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from streamer.cli import app as cli
from streamer.errors import BadConfig
from streamer.models import find, pin, sign, write
from tests.model_folders import FILES, WEIGHTS, description, edit, flip, truncate


def older(folder: Path) -> None:
    """As `model.toml` was before it said what the weights hold."""
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(re.sub(r"header_bytes = 64\n|\n\[tensors\]\n.*", "", text, flags=re.DOTALL))


def test_an_older_manifest_is_refused_and_mended_by_the_command_that_it_names(models: Path, folder: Path) -> None:
    whole = (folder / "model.toml").read_text()
    older(folder)
    assert "tensors" not in (folder / "model.toml").read_text()

    with pytest.raises(BadConfig) as refused:
        find(models, "demo")
    name, *words = str(refused.value).partition("mended by: ")[2].split()
    assert name == "streamer"
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert (folder / "model.toml").read_text() == whole
    assert find(models, "demo").version == "v1"


@pytest.mark.parametrize("damage", [flip, truncate, lambda folder: edit(folder, "seed = 7", "seed = 'x'")])
def test_what_is_not_what_was_trained_cannot_be_pinned(folder: Path, damage: Callable[[Path], object]) -> None:
    older(folder)
    damage(folder)
    before = (folder / "model.toml").read_bytes()

    with pytest.raises(BadConfig):
        pin(folder)

    assert (folder / "model.toml").read_bytes() == before


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_with_a_public_key_only_what_was_signed_is_loaded(models: Path, folder: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    other_private, other_public = key_pair(tmp_path, "other")

    with pytest.raises(BadConfig, match=r"is not signed, .* sign it: streamer models sign demo --version v1"):
        find(models, "demo", public_key=public)
    sign(models, find(models, "demo"), private)
    assert find(models, "demo", public_key=public).version == "v1"
    with pytest.raises(BadConfig, match=r"is not the signature of model\.toml"):
        find(models, "demo", public_key=other_public)

    both = tmp_path / "both.pub"
    both.write_bytes(other_public.read_bytes() + public.read_bytes())
    assert find(models, "demo", public_key=both).version == "v1"

    edit(folder, "seed = 7", "seed = 8")
    with pytest.raises(BadConfig, match="is not the signature"):
        find(models, "demo", public_key=public)
    sign(models, find(models, "demo"), other_private)
    with pytest.raises(BadConfig, match="is not the signature"):
        find(models, "demo", public_key=public)


def test_a_signature_of_another_model_is_none_of_this_one(models: Path, folder: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    newer = write(models, description(seed=8), WEIGHTS, FILES)
    sign(models, find(models, "demo", "v1"), private)
    (newer / "model.sig").write_bytes((folder / "model.sig").read_bytes())

    with pytest.raises(BadConfig, match="is not the signature"):
        find(models, "demo", "v2", public)


def test_the_command_signs_what_is_verified(models: Path, folder: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ours")
    words = ["models", "sign", "demo", "--key", str(private), "--set", f"models.dir={models}"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert find(models, "demo", public_key=public).version == "v1"
    flip(folder)
    assert isinstance(CliRunner().invoke(cli, words).exception, BadConfig)


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_without_keys_lets_nothing_pass(models: Path, tmp_path: Path, content: bytes) -> None:
    private, _ = key_pair(tmp_path, "ours")
    sign(models, find(models, "demo"), private)
    (tmp_path / "bad.pub").write_bytes(content)

    for path in (tmp_path / "bad.pub", private):
        with pytest.raises(BadConfig, match="holds no public ed25519 keys"):
            find(models, "demo", public_key=path)
    with pytest.raises(BadConfig, match="cannot be read"):
        find(models, "demo", public_key=tmp_path / "nowhere")
    with pytest.raises(BadConfig, match="holds no private ed25519 key"):
        sign(models, find(models, "demo"), tmp_path / "bad.pub")


RUNS_CODE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch.load"}
RUNS_CODE |= {"yaml.load", "yaml.unsafe_load", "eval", "exec", "numpy.load", "np.load", "torch.jit.load"}


def code_runners(source: str) -> set[str]:
    """What a source imports or calls that may run code out of data."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found & RUNS_CODE


def test_no_source_of_ours_can_read_a_pickle() -> None:
    root = Path(__file__).parents[3]
    sources = [path for layer in ("schemas", "streamer", "workers") for path in (root / layer).rglob("*.py")]
    assert len(sources) > 50
    assert {str(path): found for path in sources if (found := code_runners(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source", ["import pickle", "from torch import load as l\nl('x')", "torch.load('x')", "def f(): eval('1')"]
)
def test_what_could_would_be_found(source: str) -> None:
    assert code_runners(source)
