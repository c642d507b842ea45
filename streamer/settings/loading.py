"""Where settings come from: `streamer.toml`, STREAMER_… variables, the command line; merged, checked, and
explained when wrong. Nothing else in this package reads the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from streamer.errors import BadConfig
from streamer.settings.kafka_names import is_secret
from streamer.settings.secret_files import cure, in_the_open, resolved
from streamer.settings.values import PREFIX, SEPARATOR, Settings, flat_client, leaves

__all__ = ["Layer", "Settings", "Shown", "client_config", "layers", "load", "merge", "shown"]

FILE = "streamer.toml"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Layer(NamedTuple):
    """The settings of one place, as nested tables."""

    origin: str
    values: dict[str, Any]


class Shown(NamedTuple):
    """One setting as `streamer check --show` prints it: secrets starred."""

    key: str
    value: str | int | float | bool | None
    origin: str


def load(path: Path | None = None, overrides: Mapping[str, Any] = NOTHING) -> Settings:
    """The settings of file, environment and `overrides` (dotted keys), the later beating the earlier.

    Raises:
        BadConfig: every problem at once, each with its key and cure.
    """
    return merge(layers(path, overrides))


def layers(path: Path | None = None, overrides: Mapping[str, Any] = NOTHING) -> list[Layer]:
    """What each place says, weakest first. `path` None looks in the usual places, where a file may be missing.

    Raises:
        BadConfig: the file cannot be read, or a STREAMER_ variable names no setting.
    """
    found = [_file(path)] if path else [_file(place) for place in _places() if place.is_file()][:1]
    for layer in found:
        _refuse_secrets(layer)
    given: dict[str, Any] = {}
    for key, value in overrides.items():
        given = _deep(given, _nest(key, value))
    stacked = [*found, Layer("environment", _environment()), Layer("command line", given)]
    return [Layer(layer.origin, resolved(_with_flat_client(layer.values))) for layer in stacked]


def merge(stacked: Sequence[Layer]) -> Settings:
    """One `Settings` of all layers.

    Raises:
        BadConfig: every problem at once, each with its key and cure.
    """
    values: dict[str, Any] = {}
    for layer in stacked:
        values = _deep(values, layer.values)
    try:
        return Settings(**values)
    except UnicodeEncodeError:
        wrong = [key for key, value in leaves(values) if not _is_text(f"{key} {value}")]
        raise _bad([f"{ascii(key)[1:-1]}: is not UTF-8; write it in UTF-8" for key in wrong]) from None
    except ValidationError as error:
        raise _bad([_problem(details, stacked) for details in error.errors(include_url=False)]) from None


def shown(settings: Settings, stacked: Sequence[Layer]) -> list[Shown]:
    """Every setting with its value and where it comes from."""
    return [
        Shown(key, "**********" if is_secret(key) and value is not None else _plain(value), _origin(key, stacked))
        for key, value in leaves(settings.model_dump())
    ]


def client_config(settings: Settings) -> dict[str, str]:
    """The settings that every librdkafka client of ours begins with. A producer ignores the consumer's among them."""
    return {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "enable.metrics.push": "false",  # librdkafka's default sends client metrics to the broker
        "allow.auto.create.topics": "false",  # a misspelt topic is an error, and nobody needs the right to make one
        **settings.kafka.client,
    }


def _refuse_secrets(layer: Layer) -> None:
    if keys := list(in_the_open(_with_flat_client(layer.values))):
        raise _bad([f"{key} ({layer.origin}): a secret may not stand in this file; {cure(key)}" for key in keys])


def _is_text(text: str) -> bool:
    """Whether a text was UTF-8: other bytes in a variable or on the command line become lone surrogates."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _plain(value: Any) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _places() -> Iterator[Path]:
    yield Path(FILE)
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "streamer" / FILE
    yield Path("/etc/streamer") / FILE


def _file(path: Path) -> Layer:
    try:
        return Layer(f"file {path}", tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BadConfig(f"{path} is not there; name a file that is, or leave --config out") from None
    except OSError as error:
        raise BadConfig(f"{path} cannot be read ({error.strerror}); give this user the right to read it") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, no TOML, or a number of too many digits
        raise BadConfig(f"{path} is not TOML: {error}") from None


def _environment() -> dict[str, Any]:
    known = [key for key, _ in leaves(Settings().model_dump())] + ["kafka.client"]
    sections = {key.partition(".")[0] for key in known if "." in key}
    unknown = []
    for name, value in os.environ.items():
        if not name.upper().startswith(PREFIX) or not value or _from_kubernetes(name, value):
            continue
        key = name[len(PREFIX) :].lower().replace(SEPARATOR, ".")
        # Validation finds what is wrong below a section.
        if key not in known and key.partition(".")[0] not in sections:
            unknown.append(f"{name}: there is no such setting{_nearest(key, [_variable(right) for right in known])}")
    if unknown:
        raise _bad(unknown)
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise BadConfig(
            f"environment: {error}; write a table as JSON, or one variable for each key, such as "
            f"{_variable('kafka.bootstrap_servers')}"
        ) from None


def _from_kubernetes(name: str, value: str) -> bool:
    """Whether the cluster made this variable: it makes some for every service, and a service may be called streamer."""
    made = r"_(SERVICE_(HOST|PORT)(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$"
    return bool(re.search(made, name)) or value.startswith(("tcp://", "udp://", "sctp://"))


def _problem(details: ErrorDetails, stacked: Sequence[Layer]) -> str:
    key = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if details["type"] == "extra_forbidden":
        message = "there is no such setting" + _nearest(key, [right for right, _ in leaves(Settings().model_dump())])
    origin = _origin(key, stacked)
    return f"{_variable(key) if origin == 'environment' else key} ({origin}): {message}"


def _bad(problems: Sequence[str]) -> BadConfig:
    if len(problems) == 1:
        return BadConfig(problems[0])
    return BadConfig("\n  ".join([f"{len(problems)} problems in the configuration:", *problems]))


def _nearest(wrong: str, right: Sequence[str]) -> str:
    folded = {_fold(name): name for name in right}
    close = get_close_matches(_fold(wrong), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""


def _fold(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower().removeprefix(PREFIX.lower()))


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", SEPARATOR).upper()


def _origin(key: str, stacked: Sequence[Layer]) -> str:
    """The strongest layer that sets `key` or a key below it."""
    for layer in stacked[::-1]:
        if any(said == key or said.startswith(f"{key}.") for said, _ in leaves(layer.values)):
            return layer.origin
    return "default"


def _deep(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        nested = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = _deep(under, value) if nested else value  # type: ignore[arg-type]
    return merged


def _nest(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nest(rest, value) if rest else value}


def _with_flat_client(values: dict[str, Any]) -> dict[str, Any]:
    kafka = values.get("kafka")
    if not isinstance(kafka, Mapping) or not isinstance(kafka.get("client"), Mapping):
        return values
    return {**values, "kafka": {**kafka, "client": flat_client(kafka["client"])}}
