"""The container files, as far as they can be tested without an engine to run them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer import discovery
from streamer.errors import BadConfig
from streamer.settings import PREFIX, SEPARATOR, Settings, leaves, loading

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
FILES = ("compose.yaml", "compose.gpu.yaml")
WORKERS = ("lead-scoring", "ticket-routing")


def compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


SERVICES: dict[str, Any] = compose("compose.yaml")["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("streamer:")]


def steps(*words: str) -> list[str]:
    """The instructions of the Dockerfile that begin with these words, without those words."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#")))
    start = " ".join(words) + " "
    return [line.removeprefix(start) for line in joined.splitlines() if line.startswith(start)]


def image_settings() -> dict[str, str]:
    return {
        name: value
        for name, value in (pair.split("=", 1) for pair in steps("ENV")[0].split())
        if name.startswith(PREFIX)
    }


def settings_of(service: str, *files: str) -> dict[str, str]:
    """The STREAMER_ variables that a service's process sees."""
    merged = image_settings()
    for file in files:
        merged |= compose(file)["services"][service].get("environment", {})
    return merged


def test_every_image_has_a_version():
    images = [service["image"] for service in SERVICES.values()]
    images += [line.split()[0] for line in steps("FROM")]
    assert len(images) == 7
    for image in images:
        assert re.fullmatch(r"[a-z/]+:\d[\w.-]*", image), f"{image}: pin a version"


def test_both_workers_and_the_topics_run_as_nobody_and_cannot_write():
    assert set(OURS) == {"topics", *WORKERS}
    for name in OURS:
        service = SERVICES[name]
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "/tmp" in service["tmpfs"]
    assert steps("USER") == ["10001:10001"]


def test_the_commands_are_those_of_streamer():
    assert [SERVICES[name]["command"] for name in WORKERS] == [["run", name] for name in WORKERS]
    assert SERVICES["topics"]["command"][:4] == ["topics", "apply", *WORKERS]
    assert set(WORKERS) <= set(discovery.names())
    assert json.loads(steps("ENTRYPOINT")[0]) == ["streamer"]
    assert json.loads(steps("CMD")[0])[0] == "run"


def test_whatever_is_waited_for_is_there_and_can_become_so():
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"]
    for name in WORKERS:
        assert SERVICES[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"


def test_everything_that_stays_has_a_limit_and_is_restarted():
    for name in (*WORKERS, "kafka", "redis"):
        assert SERVICES[name]["restart"] == "unless-stopped"
        assert {"cpus", "memory"} <= SERVICES[name]["deploy"]["resources"]["limits"].keys()


def test_a_worker_may_drain_before_it_is_killed():
    assert steps("STOPSIGNAL") == ["SIGTERM"]
    for name in WORKERS:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings().drain_s


def test_no_port_is_open_to_other_machines():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_variable_is_a_setting():
    known = {PREFIX + key.upper().replace(".", SEPARATOR) for key, _ in leaves(Settings().model_dump())}
    documented = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", (DEPLOY / "README.md").read_text() + DOCKERFILE))
    used = documented.union(*(settings_of(name, "compose.yaml") for name in OURS))
    used |= settings_of("lead-scoring", *FILES).keys()
    assert used
    unknown = {name for name in used if name not in known and not name.startswith(f"{PREFIX}KAFKA__CLIENT__")}
    assert not unknown - {PREFIX, "TMPDIR"}


def test_what_must_outlive_a_death_is_not_in_memory():
    """The attempt file: a container's restart empties a tmpfs."""
    for name in WORKERS:
        folder = settings_of(name, "compose.yaml")["TMPDIR"]
        assert f"state:{folder}" in SERVICES[name]["volumes"]
        assert folder not in SERVICES[name]["tmpfs"]


@pytest.mark.parametrize(
    ("name", "files"), [*((name, FILES[:1]) for name in OURS), *((name, FILES) for name in WORKERS)]
)
def test_the_settings_of_a_service_load(
    name: str, files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for variable, value in settings_of(name, *files).items():
        monkeypatch.setenv(variable, value)
    loaded = loading.load()
    assert loaded.kafka.bootstrap_servers == "kafka:9092"
    assert loaded.device == ("cuda" if files == FILES else "auto")
    assert loaded.http.host == "0.0.0.0"


def test_without_saying_so_aloud_plaintext_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for variable, value in settings_of("lead-scoring", "compose.yaml").items():
        if variable != "STREAMER_ALLOW_INSECURE":
            monkeypatch.setenv(variable, value)
    with pytest.raises(BadConfig, match="allow_insecure"):
        loading.load()


def test_clients_reach_the_broker_by_the_name_it_tells_them():
    kafka = SERVICES["kafka"]["environment"]
    advertised = dict(each.split("://") for each in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["PLAINTEXT"] == SERVICES["lead-scoring"]["environment"]["STREAMER_KAFKA__BOOTSTRAP_SERVERS"]
    port = advertised["HOST"].removeprefix("localhost:")
    assert SERVICES["kafka"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_the_probe_asks_where_the_image_serves():
    assert "/livez" in DOCKERFILE
    assert image_settings()["STREAMER_HTTP__PORT"] == steps("EXPOSE")[0]


def test_all_that_is_copied_exists_and_is_in_the_build_context():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in steps("COPY") if not line.startswith("--from") for name in line.split()[:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_lock_has_uv_with_hashes_where_the_dockerfile_looks():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("uv=="))
    last = next(at for at, line in enumerate(lines) if at >= first and not line.endswith("\\"))
    assert last > first
    assert all(line.strip().startswith("--hash=sha256:") for line in lines[first + 1 : last + 1])


def test_every_package_that_is_needed_is_in_the_lock():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    for requirement in wanted:
        name = re.split(r"[<>=\[ ]", requirement)[0]
        assert re.search(rf"^{re.escape(name)}==\S+ ", lock, re.MULTILINE), f"{name}: make lock"
