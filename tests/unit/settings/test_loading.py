"""Settings: layers and their order, and that every problem is named with its cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from streamer.errors import BadConfig
from streamer.settings.kafka_names import CLIENT_SETTINGS, REFUSED, is_loopback
from streamer.settings.loading import Settings, client_config, layers, load, merge, shown


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with an empty environment."""
    import os

    for name in [name for name in os.environ if name.upper().startswith("STREAMER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(path: Path | None = None, **overrides: object) -> str:
    with pytest.raises(BadConfig) as caught:
        load(path, {key.replace("__", "."): value for key, value in overrides.items()})
    assert caught.value.code == 78
    return str(caught.value)


def test_nothing_said_is_the_defaults() -> None:
    assert load() == Settings()
    assert load().kafka.group("lead-scoring") == "streamer-lead-scoring"
    assert load().models.dir.parts[-2:] == ("workers", "models")


def test_command_line_beats_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streamer.toml").write_text("[batch]\nitems_max = 1\nlinger_ms = 1\n[http]\nport = 1\n")
    monkeypatch.setenv("STREAMER_BATCH__ITEMS_MAX", "2")
    monkeypatch.setenv("STREAMER_BATCH__LINGER_MS", "2.5")
    stacked = layers(None, {"batch.items_max": "3"})
    settings = merge(stacked)
    assert (settings.batch.items_max, settings.batch.linger_ms, settings.http.port) == (3, 2.5, 1)
    origins = {row.key: row.origin for row in shown(settings, stacked)}
    assert origins["batch.items_max"] == "command line"
    assert origins["batch.linger_ms"] == "environment"
    assert origins["http.port"] == "file streamer.toml"
    assert origins["http.host"] == "default"


def test_the_nearest_file_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "xdg" / "streamer").mkdir(parents=True)
    (tmp_path / "xdg" / "streamer" / "streamer.toml").write_text("[http]\nport = 1\nhost = '0.0.0.0'\n")
    assert load().http.port == 1
    (tmp_path / "streamer.toml").write_text("[http]\nport = 2\n")
    assert (load().http.port, load().http.host) == (2, "127.0.0.1")
    other = tmp_path / "other.toml"
    other.write_text("[http]\nport = 3\n")
    assert load(other).http.port == 3


def test_all_problems_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "streamer.toml"
    file.write_text("delivery = 'twice'\n[batch]\nitem_max = 5\n")
    monkeypatch.setenv("STREAMER_HTTP__PORT", "-1")
    told = problems(cache__url="http://cache")
    assert "4 problems" in told
    assert "delivery (file streamer.toml): Input should be 'exactly_once' or 'at_least_once'" in told
    assert "batch.item_max (file streamer.toml): there is no such setting; did you mean batch.items_max?" in told
    assert "STREAMER_HTTP__PORT (environment)" in told
    assert "cache.url (command line): must start with redis://" in told


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("STREAMER_KAFKA_BOOTSTRAP_SERVERS", "STREAMER_KAFKA__BOOTSTRAP_SERVERS"),
        ("STREAMER_MODEL_DIR", "STREAMER_MODELS__DIR"),
        ("STREAMER_DELIVERI", "STREAMER_DELIVERY"),
    ],
)
def test_an_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
    monkeypatch.setenv(name, "x")
    assert problems() == f"{name}: there is no such setting; did you mean {nearest}?"


def test_an_unknown_variable_of_a_section_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_KAFKA__BOOTSTRAP_SERVER", "x")
    told = problems()
    assert told.startswith("STREAMER_KAFKA__BOOTSTRAP_SERVER (environment): there is no such setting")
    assert "kafka.bootstrap_servers" in told


def test_variables_of_a_kubernetes_service_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STREAMER_SERVICE_HOST": "10.0.0.1",
        "STREAMER_SERVICE_PORT_HTTP": "8080",
        "STREAMER_PORT": "tcp://10.0.0.1:8080",
        "STREAMER_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert load() == Settings()


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_CACHE__URL", "")
    assert load().cache.url is None


def test_a_table_in_a_variable_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT", "security.protocol=ssl")
    assert "write a table as JSON" in problems()


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    assert "is not there" in problems(tmp_path / "no.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = = 1")
    assert "is not TOML" in problems(broken)
    broken.write_bytes(b"\xff\xfe")
    assert "is not TOML" in problems(broken)
    assert "cannot be read" in problems(tmp_path)


def test_client_settings_are_text_by_librdkafkas_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Quoted, unquoted (TOML makes tables of it) and from the environment: one setting each, the stronger wins.
    (tmp_path / "streamer.toml").write_text(
        '[kafka.client]\n"socket.keepalive.enable" = true\nlinger.ms = 5\nsession.timeout.ms = 10000\n'
    )
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT__LINGER_MS", "7")
    assert load().kafka.client == {
        "socket.keepalive.enable": "true",
        "linger.ms": "7",
        "session.timeout.ms": "10000",
    }
    assert client_config(load())["enable.metrics.push"] == "false"
    assert client_config(load())["linger.ms"] == "7"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_dangerous_client_setting_is_refused(name: str) -> None:
    assert name not in CLIENT_SETTINGS
    assert f"{name} is refused: {REFUSED[name]}" in problems(kafka__client={name: "x"})


def test_an_unknown_client_setting_names_the_nearest() -> None:
    assert "did you mean security.protocol?" in problems(kafka__client={"securty.protocol": "ssl"})


def test_a_token_endpoint_must_be_https() -> None:
    assert "https://" in problems(kafka__client={"sasl.oauthbearer.token.endpoint.url": "http://idp/token"})


@pytest.mark.parametrize("protocol", [{}, {"security.protocol": "PLAINTEXT"}, {"security.protocol": "sasl_plaintext"}])
def test_plaintext_to_another_host_is_refused_with_the_cure(protocol: dict[str, str]) -> None:
    told = problems(kafka__bootstrap_servers="localhost:9092,kafka.example:9092", kafka__client=protocol)
    assert "kafka.example:9092" in told
    assert "localhost" not in told
    assert "allow_insecure = true" in told
    assert "sasl_ssl" in told


def test_plaintext_is_allowed_at_home_and_on_request() -> None:
    far = {"kafka.bootstrap_servers": "kafka.example:9092"}
    assert load(None, {**far, "allow_insecure": True}).allow_insecure
    assert load(None, {**far, "kafka.client": {"security.protocol": "SASL_SSL"}})
    assert load(None, {"kafka.bootstrap_servers": "127.0.0.1:1,[::1]:2,PLAINTEXT://localhost:3"})


@pytest.mark.parametrize(
    "host", ["localhost.evil.example:9092", "127.evil.example", "10.0.0.1:9092", "[fe80::1]:1", ""]
)
def test_what_only_looks_like_home_is_not(host: str) -> None:
    assert not is_loopback(host)


def test_secrets_are_starred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_CACHE__URL", "redis://:hunter2@localhost")
    monkeypatch.setenv("STREAMER_CACHE__SECRET", "hunter2")
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT__SSL_KEY_PEM", "hunter2")
    stacked = layers()
    settings = merge(stacked)
    assert settings.kafka.client["sasl.password"] == "hunter2"
    assert settings.cache.url is not None
    assert settings.cache.url.get_secret_value() == "redis://:hunter2@localhost"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(shown(settings, stacked))


def test_a_wrong_secret_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_CACHE__URL", "http://:hunter2@cache")
    assert "hunter2" not in problems()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "gpu"),
        ("commit_interval_ms", 0),
        ("drain_s", "nan"),
        ("batch.items_max", 0),
        ("batch.linger_ms", -1),
        ("dead_letters.ratio_max", 1.5),
        ("http.port", 65536),
        ("models.version", "1"),
        ("kafka.slot", "a b"),
        ("log.level", "loud"),
        ("kafka", "x"),
        ("kafka.client", "x"),
    ],
)
def test_a_wrong_value_names_its_key(key: str, value: object) -> None:
    with pytest.raises(BadConfig, match=rf"^{key} \(command line\): "):
        load(None, {key: value})


def test_settings_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().delivery = "at_least_once"


@pytest.mark.parametrize("name", ["sasl.kerberos.principal", "sasl.kerberos.keytab", "sasl.kerberos.service.name"])
def test_what_the_client_passes_to_a_shell_is_a_plain_name(name: str) -> None:
    assert load(None, {"kafka.client": {name: "streamer/host.example@EXAMPLE.COM"}}).kafka.client
    for evil in ('x" ; id', "$(id)", "a b", "`id`"):
        assert "passes it to a shell" in problems(kafka__client={name: evil})


def test_no_client_of_ours_makes_topics_or_sends_its_metrics() -> None:
    config = client_config(Settings())
    assert config["allow.auto.create.topics"] == "false"
    assert config["enable.metrics.push"] == "false"


def test_half_a_character_in_a_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: a variable that is not UTF-8 comes with lone surrogates."""
    monkeypatch.setenv("STREAMER_KAFKA__GROUP_ID", "a\udc90")
    assert "STREAMER_KAFKA__GROUP_ID" in problems()
    monkeypatch.setenv("STREAMER_KAFKA__CLIENT", '{"security.\udcbc": "plaintext"}')
    assert r"security.\udcbc: is not UTF-8; write it in UTF-8" in problems()


def test_a_number_of_too_many_digits_is_no_toml(tmp_path: Path) -> None:
    """Found by fuzzing: Python reads no integer of more than 4,300 digits."""
    (tmp_path / "streamer.toml").write_text("[http]\nport = " + "1" * 5_000)
    assert "is not TOML" in problems()
