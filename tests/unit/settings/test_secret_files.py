"""Secrets: from a file or a variable, nowhere else, and never shown."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from streamer import cli
from streamer.cli.check import _as_toml
from streamer.errors import BadConfig
from streamer.settings import Settings, loading
from streamer.settings.kafka_names import CLIENT_SETTINGS, is_secret

HUNTER = "hunter2"
CLIENT_SECRETS = sorted(name for name in CLIENT_SETTINGS if is_secret(name))


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.upper().startswith("STREAMER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path, text: str | bytes = HUNTER, name: str = "held") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problem(text: str = "") -> str:
    if text:
        Path("streamer.toml").write_text(text)
    with pytest.raises(BadConfig) as caught:
        loading.load()
    assert HUNTER not in str(caught.value)
    return str(caught.value)


def test_every_secret_of_the_client_may_come_from_a_file(tmp_path: Path) -> None:
    path = held(tmp_path)
    assert len(CLIENT_SECRETS) >= 10
    for name in CLIENT_SECRETS:
        for spelt in (f'"{name}_file"', f'"{name}.file"', f"{name}_file"):
            (tmp_path / "streamer.toml").write_text(f"[kafka.client]\n{spelt} = {json.dumps(str(path))}\n")
            assert loading.load().kafka.client == {name: HUNTER}


def test_every_other_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = held(tmp_path, f"redis://:{HUNTER}@localhost\n", "url")
    (tmp_path / "streamer.toml").write_text(f"[cache]\nurl_file = {json.dumps(str(url))}\n")
    monkeypatch.setenv("STREAMER_CACHE__SECRET_FILE", str(held(tmp_path, "a-secret-of-length")))
    monkeypatch.setenv("STREAMER_HTTP__TOKEN_FILE", str(held(tmp_path, "a-token-of-some-length-0123456789", "token")))
    loaded = loading.load()
    assert loaded.cache.url is not None
    assert loaded.cache.url.get_secret_value() == f"redis://:{HUNTER}@localhost"
    assert loaded.cache.secret is not None
    assert loaded.cache.secret.get_secret_value() == "a-secret-of-length"
    assert loaded.http.token is not None


@pytest.mark.parametrize(
    ("text", "secret"),
    [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), (" x ", " x "), ("a\nb\n", "a\nb")],
)
def test_one_end_of_line_is_not_part_of_a_secret(tmp_path: Path, text: str, secret: str) -> None:
    (tmp_path / "streamer.toml").write_text(f"[kafka.client]\nsasl.password_file = '{held(tmp_path, text)}'\n")
    assert loading.load().kafka.client["sasl.password"] == secret


def test_a_file_that_holds_no_secret_is_told(tmp_path: Path) -> None:
    def told(path: Path) -> str:
        return problem(f"[kafka.client]\nsasl.password_file = '{path}'\n")

    assert "is not there" in told(tmp_path / "no")
    assert "is no file" in told(tmp_path)
    assert "is empty" in told(held(tmp_path, "\n"))
    assert "is no text" in told(held(tmp_path, b"\xff\xfe"))
    assert "name the file that holds the secret alone" in told(held(tmp_path, "x" * 70_000))
    loose = held(tmp_path)
    loose.chmod(0o646)
    assert f"everybody may change {loose}; take that right away: chmod o-w {loose}" in told(loose)


def test_a_secret_that_is_given_twice_is_no_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_CACHE__SECRET", HUNTER)
    monkeypatch.setenv("STREAMER_CACHE__SECRET_FILE", str(held(tmp_path, "other")))
    assert "cache.secret is given, and a file for it too" in problem()


def test_a_variable_beats_the_file_that_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streamer.toml").write_text(f"[kafka.client]\nsasl.password_file = '{held(tmp_path)}'\n")
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT__SASL_PASSWORD", "new")
    assert loading.load().kafka.client["sasl.password"] == "new"


@pytest.mark.parametrize("name", CLIENT_SECRETS)
def test_a_client_secret_in_streamer_toml_is_refused_with_the_cure(name: str) -> None:
    told = problem(f'[kafka.client]\n"{name}" = "{HUNTER}"\n')
    assert f"kafka.client.{name} (file streamer.toml): a secret may not stand in this file" in told
    assert f'[kafka.client] "{name}.file"' in told
    assert f"STREAMER_KAFKA__CLIENT__{name.replace('.', '_').upper()}" in told


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("cache.secret", HUNTER, "STREAMER_CACHE__SECRET"),
        ("http.token", HUNTER, "STREAMER_HTTP__TOKEN"),
        ("cache.url", f"redis://:{HUNTER}@localhost", "STREAMER_CACHE__URL"),
        ("cache.url", f"rediss://localhost?ssl_password={HUNTER}", "STREAMER_CACHE__URL"),
    ],
)
def test_a_secret_in_streamer_toml_or_in_arguments_is_refused(
    key: str, value: str, variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{key}_file, or set {variable}" in problem(f'{key} = "{value}"\n')
    Path("streamer.toml").unlink()
    monkeypatch.setattr("sys.argv", ["streamer", "check", "lead-scoring", "--set", f"{key}={value}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert f"--set {key}: every process of this machine can read arguments; put it into a file" in said.err
    assert HUNTER not in said.err + said.out


def test_an_address_without_a_password_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "streamer.toml").write_text('cache.url = "redis://localhost:6379/0"\n')
    assert loading.load().cache.url is not None


def _secret_keys(model: type[BaseModel], above: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _secret_keys(kind, f"{above}{name}.")
        elif SecretStr.__name__ in f"{kind!r}":
            keys.append(above + name)
    return keys


def test_every_setting_that_is_typed_as_a_secret_is_treated_as_one() -> None:
    keys = _secret_keys(Settings)
    assert {"cache.url", "cache.secret", "http.token"} <= set(keys)
    for key in keys:
        assert is_secret(key), f"add {key} to kafka_names.is_secret"


@pytest.mark.parametrize("given", [{"kafka": {"client": {"sasl.password": HUNTER, "no.such": "x"}}}, {"cache": HUNTER}])
def test_no_validation_quotes_what_it_was_given(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(given)
    assert HUNTER not in str(caught.value) + repr(caught.value)


# -- streamer check --show


def show(loaded: Settings, stacked: list[loading.Layer]) -> str:
    return "\n".join(_as_toml(**shown._asdict()) for shown in loading.shown(loaded, stacked)) + "\n"


def test_what_check_shows_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streamer.toml").write_text(
        'allow_insecure = true\nbatch.linger_ms = 2.5\n[kafka.client]\n"sasl.username" = "a \\"b\\" \\\\ é"\n'
    )
    monkeypatch.setenv("STREAMER_CACHE__SECRET", HUNTER)
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT__SASL_PASSWORD", HUNTER)
    stacked = loading.layers()
    loaded = loading.merge(stacked)
    text = show(loaded, stacked)
    assert HUNTER not in text
    assert '# cache.secret = "**********"  # environment' in text
    assert '# kafka.client."sasl.password" = "**********"  # environment' in text
    assert "allow_insecure = true  # file streamer.toml" in text
    assert "# kafka.group_id is not set  # default" in text
    assert not re.search(r"\b(None|True|False)\b", text)
    tomllib.loads(text)
    pasted = tmp_path / "pasted.toml"
    pasted.write_text(text)
    assert loading.load(pasted) == loaded
