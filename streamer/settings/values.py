"""Every setting with its type, default and limits. Durations end in `_ms` or `_s`, limits in `_max`.

`Settings()` alone is the defaults and reads nothing; `streamer.settings.loading.load` merges file and environment.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from streamer.settings import redis_url
from streamer.settings.kafka_names import CLIENT_SETTINGS, REFUSED, is_loopback

PREFIX = "STREAMER_"
SEPARATOR = "__"

CACHE_SECRET_MIN = 16

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class KafkaSettings(Section):
    """The broker and this replica's place in the group.

    `group_id` None means `streamer-<worker>`. `slot` is the stable name of this replica, part of its
    transactional id; None means host name and the first free number. `start` is where a group that has
    committed nothing begins. `client` goes to librdkafka as it is, by librdkafka's own names.
    """

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "localhost:9092"
    group_id: Annotated[str, Field(min_length=1)] | None = None
    slot: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,200}$")] | None = None
    start: Literal["earliest", "latest"] = "earliest"
    client: dict[str, str] = Field(default_factory=dict, repr=False)

    @field_validator("client", mode="before")
    @classmethod
    def _client(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        client = {name: _text(value) for name, value in flat_client(given).items()}
        problems = [problem for name, value in client.items() if (problem := _client_problem(name, value))]
        if problems:
            raise ValueError("; ".join(problems))
        return client

    def group(self, worker: str) -> str:
        """The consumer group of a worker."""
        return self.group_id or f"streamer-{worker}"


class BatchSettings(Section):
    """Limits of one batch: `items_max` items, `cost_max` padded cost (None: a million), `linger_ms`
    how long an idle device waits for more, `latency_goal_ms` from an event's own timestamp to its answer
    (None: no goal), `timeout_s` how long a batch may take before the process ends as hung."""

    items_max: Positive = 1024
    cost_max: Positive | None = None
    linger_ms: Annotated[float, Field(ge=0)] = 0
    latency_goal_ms: Annotated[float, Field(gt=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 60


class GpuSettings(Section):
    """`memory_max` is the share of the GPU's memory that this process may use for tensors: less than 1 where several
    replicas or models share a GPU."""

    memory_max: Annotated[float, Field(gt=0, le=1)] = 1.0


class CacheSettings(Section):
    """Answers by content. `url` is a Redis URL (None: this process only), `near_max` the answers kept in this
    process, `timeout_ms` the longest a look-up may take. `secret` keys the hash of a look-up and the checksum of what
    is found. It is the same for all replicas, and must be set where `url` is on another host."""

    url: SecretStr | None = None
    ttl_s: Annotated[float, Field(gt=0)] = 3600
    near_max: Positive = 100_000
    timeout_ms: Positive = 20
    secret: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _url(cls, url: SecretStr | None) -> SecretStr | None:
        if url and (problem := redis_url.problem(url.get_secret_value())):
            raise ValueError(problem)
        return url


class HttpSettings(Section):
    """Where probes and metrics are served; port 0 is any free one. `POST /drain` must bring `token` (None: nobody may
    ask for a drain)."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    token: Annotated[SecretStr, Field(min_length=16, max_length=1024)] | None = None


def _models_dir() -> Path:
    found = importlib.util.find_spec("workers")
    places = found.submodule_search_locations if found else None
    return Path(next(iter(places))) / "models" if places else Path("models")


class ModelsSettings(Section):
    """Models are in `<dir>/<name>/<version>`; `latest` is the highest version. `public_key` is a PEM file of ed25519
    keys; with it, a model is loaded only if one of them signed it."""

    dir: Path = Field(default_factory=_models_dir)
    version: Annotated[str, StringConstraints(pattern=r"^(latest|v[1-9][0-9]{0,8})$")] = "latest"
    public_key: Path | None = None


class FeatureSettings(Section):
    """The features behind `log_share` of the predictions are published to `features.<target>`."""

    log_share: Annotated[float, Field(ge=0, le=1)] = 0


class DeadLetterSettings(Section):
    """When the worker stops instead of turning a topic into dead letters: at more than `ratio_max` of the recent
    records, or more than `run_max` in a row, in one partition."""

    ratio_max: Annotated[float, Field(gt=0, le=1)] = 0.5
    run_max: Positive = 1000


class EncryptionSettings(Section):
    """`keys_file` holds the keys of encrypted personal data, one a line; None: nothing is encrypted."""

    keys_file: Path | None = None


class LimitSettings(Section):
    """A record over `record_bytes_max` is a dead letter. Reading pauses while `in_flight_max` records or
    `in_flight_bytes_max` bytes are unanswered."""

    record_bytes_max: Positive = 1_000_000
    in_flight_max: Positive = 50_000
    in_flight_bytes_max: Positive = 64 * 1024 * 1024


class LogSettings(Section):
    """`format` auto is console on a terminal and JSON elsewhere. `errors` full writes the exceptions of a worker to
    stderr, whole, for development: their text may quote an event."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    errors: Literal["class", "full"] = "class"


class Settings(BaseSettings):
    """Everything that can be set.

    `delivery` is the guarantee, `device` auto, cpu, cuda or cuda:N, `commit_interval_ms` how long outcomes
    gather under backlog, `drain_s` the time of a stop, `allow_insecure` permits plaintext to other hosts.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a secret
        env_prefix=PREFIX,
        env_nested_delimiter=SEPARATOR,
        env_ignore_empty=True,
    )

    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    commit_interval_ms: Annotated[int, Field(gt=0, le=5_000)] = 100
    drain_s: Annotated[float, Field(gt=0)] = 25
    allow_insecure: bool = False
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    batch: BatchSettings = Field(default_factory=BatchSettings)
    gpu: GpuSettings = Field(default_factory=GpuSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    models: ModelsSettings = Field(default_factory=ModelsSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    dead_letters: DeadLetterSettings = Field(default_factory=DeadLetterSettings)
    encryption: EncryptionSettings = Field(default_factory=EncryptionSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="after")
    def _no_plaintext_to_strangers(self) -> Self:
        protocol = self.kafka.client.get("security.protocol", "plaintext").lower()
        if self.allow_insecure or protocol not in ("plaintext", "sasl_plaintext"):
            return self
        servers = self.kafka.bootstrap_servers.split(",")
        if strangers := [server.strip() for server in servers if not is_loopback(server)]:
            raise ValueError(
                f"kafka would talk {protocol} to {', '.join(strangers)}, where anyone on the way can read and change "
                'events; set "security.protocol" = "sasl_ssl" (or "ssl") in [kafka.client], or '
                "allow_insecure = true in a network that you trust"
            )
        return self

    @model_validator(mode="after")
    def _no_cache_among_strangers(self) -> Self:
        url = self.cache.url.get_secret_value() if self.cache.url else None
        if self.allow_insecure or url is None or redis_url.is_local(url):
            return self
        place = redis_url.place(url)
        if not redis_url.is_encrypted(url):
            raise ValueError(
                f"cache.url would talk plain text to {place}, where anyone on the way can read the password and change "
                "answers; write rediss:// (ssl_ca_certs=FILE after a ? names the authority), or set "
                "allow_insecure = true in a network that you trust"
            )
        secret = self.cache.secret.get_secret_value() if self.cache.secret else ""
        if len(secret) < CACHE_SECRET_MIN:
            raise ValueError(
                f"cache.secret must be set, to {CACHE_SECRET_MIN} characters or more, as the cache is on another host "
                f"({place}): without it anyone who writes there can forge answers. Make one by `openssl rand -hex 32`, "
                "and give it to all replicas"
            )
        return self


def flat_client(client: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka's names: TOML makes tables of unquoted dots, and variables cannot hold a dot."""
    return {name.replace("_", "."): value for name, value in leaves(client)}


def leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def _client_problem(name: str, value: str) -> str | None:
    if name in REFUSED:
        return f"{name} is refused: {REFUSED[name]}"
    if name not in CLIENT_SETTINGS:
        close = get_close_matches(name, CLIENT_SETTINGS, n=1)
        return f"{name} may not be passed to the client" + (f"; did you mean {close[0]}?" if close else "")
    if name.startswith("sasl.kerberos.") and re.search(r"[^\w@/.:-]", value):
        return f"{name} may hold letters, digits and @/.:-_ only: librdkafka passes it to a shell"
    if name == "sasl.oauthbearer.token.endpoint.url" and not value.startswith("https://"):
        return f"{name} must be an https:// address: librdkafka sends the client's secret to it"
    return None


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value
