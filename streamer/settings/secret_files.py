"""Secrets come from a file that the setting names, or from a variable; nowhere else.

Every secret has a twin that names a file: `cache.secret_file`, `STREAMER_KAFKA__CLIENT__SASL_PASSWORD_FILE`. A secret
in streamer.toml or on a command line is refused. The file is copied, committed and read by everybody who sets up the
rest, and every process of the machine sees a command line. There is no exception for loopback, because a variable is
as easy.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from streamer.errors import BadConfig
from streamer.settings.kafka_names import CLIENT_SETTINGS, is_secret

BYTES_MAX = 65_536
CLIENT = "kafka.client."


def resolved(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The same nested tables, with the content of the files in place of their names.

    Raises:
        BadConfig: a file that is named cannot be used, or a secret is given twice.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = above + name
        if isinstance(value, Mapping):
            found[name] = resolved(value, f"{key}.")
        elif (twin := _twin(key)) is None:
            found[name] = value
        elif twin.removeprefix(above) in values:
            raise BadConfig(f"{twin} is given, and a file for it too; take one of them out")
        else:
            found[twin.removeprefix(above)] = _read(twin, Path(str(value)))
    return found


def in_the_open(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The keys of secrets whose value itself is written there."""
    for name, value in values.items():
        key = _dotted(above + name)
        if isinstance(value, Mapping):
            yield from in_the_open(value, f"{key}.")
        elif is_secret(key) and _twin(key) is None and (key != "cache.url" or _has_password(str(value))):
            yield key


def cure(key: str) -> str:
    """Where the secret belongs, in words."""
    joint = ".file" if key.startswith(CLIENT) else "_file"
    variable = "STREAMER_" + key.removeprefix(CLIENT).replace(".", "_" if key.startswith(CLIENT) else "__").upper()
    if key.startswith(CLIENT):
        variable = variable.replace("STREAMER_", "STREAMER_KAFKA__CLIENT__")
        name = key.removeprefix(CLIENT)
        return f'put it into a file and name that by [kafka.client] "{name}{joint}", or set {variable}'
    return f"put it into a file and name that by {key}{joint}, or set {variable}"


def _dotted(key: str) -> str:
    return key.replace("_", ".") if key.startswith(CLIENT) else key


def _twin(key: str) -> str | None:
    """The secret whose file this key names; None where it names none."""
    if key.startswith(CLIENT):
        name = key.removeprefix(CLIENT)
        base = name.removesuffix(".file")
        mine = name not in CLIENT_SETTINGS and base != name and base in CLIENT_SETTINGS
    else:
        base = key.removesuffix("_file")
        mine = base != key
    return key[: -len("_file")] if mine and is_secret(base) else None


def _read(key: str, path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadConfig(f"{key}: {path} is no file; name the file that holds the secret and nothing else")
        if status.st_mode & stat.S_IWOTH:
            raise BadConfig(f"{key}: everybody may change {path}; take that right away: chmod o-w {path}")
        if status.st_size > BYTES_MAX:
            raise BadConfig(f"{key}: {path} has {status.st_size} bytes; name the file that holds the secret alone")
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise BadConfig(f"{key}: {path} is not there; mount or write the file that holds the secret") from None
    except OSError as error:
        raise BadConfig(f"{key}: {path} cannot be read ({error.strerror}); give this user the right to") from None
    except UnicodeDecodeError:
        raise BadConfig(f"{key}: {path} is no text (UTF-8); name the file that holds the secret itself") from None
    secret = text.removesuffix("\n").removesuffix("\r")  # an editor, or echo, ends the line
    if not secret.strip():
        raise BadConfig(f"{key}: {path} is empty; write the secret into it")
    return secret


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.password) or "ssl_password" in parse_qs(parts.query)
    except ValueError:
        return "@" in url
