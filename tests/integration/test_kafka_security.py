"""Who comes in, on a real Kafka with TLS: by password, by certificate, by token; and who does not, and is told why.

The settings go the way a user's do: variables, and files that hold the secrets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.faults.process import WorkerProcess
from tests.faults.worker_main import Plan
from tests.integration.conftest import WORKER
from tests.services import create_topic, produce_many, read_topic, unique
from tests.services.process import free_ports
from tests.services.secure_kafka import PASSWORD, SecureKafka, rights
from workers.lead_scoring.worker import LeadScoring

REFUSED_S = 12
"""From the first try to the end of the process; a start of a transaction is waited for 5 s."""
SECRETS = ("sasl.password", "sasl.oauthbearer.client.secret", "ssl.key.pem")
WRONG = "wrong-hunter2"

CURES = {
    "wrong password": "mend sasl.username and sasl.password (or its file, sasl.password_file)",
    "wrong password, at least once": "mend sasl.username and sasl.password (or its file, sasl.password_file)",
    "unknown authority": "unable to get local issuer certificate; set ssl.ca.location to the authority that signed it",
    "another name": "IP address mismatch, certificate is not valid for '127.0.0.2'.; set kafka.bootstrap_servers",
    "no client certificate": "set ssl.certificate.location and ssl.key.location",
    "expired client certificate": "one that it knows and that has not expired",
    "certificate of a stranger": "one that it knows and that has not expired",
    "unknown mechanism": "SCRAM-SHA-512,OAUTHBEARER",
    "wrong client secret": "no token: Failed to acquire SASL OAUTHBEARER token: ",
    "token server of a stranger": "sasl.oauthbearer.client.id and .secret, token.endpoint.url and https.ca.location",
}


def _strangers(kafka: SecureKafka, folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Where each of them comes, and as whom."""
    scram, token, certificate = kafka.by_scram(), kafka.by_token(), kafka.by_certificate()
    stranger = trustme.CA()
    other = str(folder / "other-ca.pem")
    stranger.cert_pem.write_to_path(other)
    past = datetime.now(UTC) - timedelta(days=1)
    return {
        "wrong password": (kafka.sasl, {**scram, "sasl.password": WRONG}),
        "wrong password, at least once": (kafka.sasl, {**scram, "sasl.password": WRONG}),
        "unknown authority": (kafka.sasl, {**scram, "ssl.ca.location": other}),
        "another name": (kafka.sasl_by_another_name, scram),
        "no client certificate": (kafka.mtls, {"security.protocol": "ssl", "ssl.ca.location": kafka.ca_file}),
        "expired client certificate": (kafka.mtls, {**certificate, **kafka.certificate(not_after=past)}),
        "certificate of a stranger": (kafka.mtls, {**certificate, **kafka.certificate(ca=stranger)}),
        "unknown mechanism": (kafka.sasl, {**scram, "sasl.mechanisms": "PLAIN"}),
        "wrong client secret": (kafka.sasl, {**token, "sasl.oauthbearer.client.secret": WRONG}),
        "token server of a stranger": (kafka.sasl, {**token, "https.ca.location": other}),
    }


@pytest.fixture(scope="module")
def refusals(
    secure_kafka: SecureKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[int, str]]]:
    """How each stranger's worker ended, and all that it said; side by side, as each tries for seconds."""
    folder = tmp_path_factory.mktemp("strangers")
    source, target = create_topic(secure_kafka.bootstrap), create_topic(secure_kafka.bootstrap)
    workers: dict[str, WorkerProcess] = {}
    for name, (bootstrap, client) in _strangers(secure_kafka, folder).items():
        plan = Plan(
            bootstrap=bootstrap,
            group=unique("stranger"),
            source=source,
            target=target,
            slot="a",
            log=str(folder / f"{name}.log"),
            client=client,
            delivery="at_least_once" if "at least once" in name else "exactly_once",
        )
        workers[name] = WorkerProcess(plan)
    try:
        for worker in workers.values():
            worker.wait_for("model is warm", timeout_s=60)
        yield {name: (worker.wait(REFUSED_S), worker.log()) for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", CURES)
def test_who_is_not_let_in_is_told_why_and_does_not_try_for_ever(
    refusals: Mapping[str, tuple[int, str]], name: str
) -> None:
    code, log = refusals[name]
    assert code == 69, log[-3000:]
    assert CURES[name] in log.splitlines()[-1]
    for secret in (WRONG, PASSWORD):
        assert secret not in log
    assert "Traceback" not in log


def _variables(kafka: SecureKafka, way: str, folder: Path) -> dict[str, str]:
    """The settings of a user, secrets in files of their own."""
    client = {"password": kafka.by_scram, "token": kafka.by_token, "certificate": kafka.by_certificate}[way]()
    if way == "certificate":
        client["ssl.key.pem"] = Path(client.pop("ssl.key.location")).read_text()
        client["ssl.certificate.pem"] = Path(client.pop("ssl.certificate.location")).read_text()
    variables = {
        "STREAMER_KAFKA__BOOTSTRAP_SERVERS": kafka.mtls if way == "certificate" else kafka.sasl,
        "STREAMER_CACHE__SECRET_FILE": _secret_file(folder, "cache.secret", "cache-hunter2"),
        "STREAMER_LOG__LEVEL": "debug",
        "STREAMER_LOG__FORMAT": "json",
    }
    for name, value in client.items():
        variable = f"STREAMER_KAFKA__CLIENT__{name.replace('.', '_').upper()}"
        if name in SECRETS:
            variables[f"{variable}_FILE"] = _secret_file(folder, name, value)
        else:
            variables[variable] = value
    return variables


def _secret_file(folder: Path, name: str, value: str) -> str:
    path = folder / f"secret-{name}"
    path.write_text(value + "\n")
    path.chmod(0o400)
    return str(path)


def _streamer(folder: Path, variables: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    return subprocess.Popen(
        [sys.executable, "-c", "from streamer.cli import main; main()", *words],
        env={**kept, **variables},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("way", ["password", "certificate", "token"])
def test_a_worker_comes_in_by_each_way_and_lets_no_secret_out(
    secure_kafka: SecureKafka, tmp_path: Path, way: str
) -> None:
    source = create_topic(secure_kafka.bootstrap, unique("events"), partitions=2)
    target = create_topic(secure_kafka.bootstrap, f"{source}.scores", partitions=2)
    create_topic(secure_kafka.bootstrap, f"dlq.{source}", partitions=2)
    (tmp_path / "mine.py").write_text(WORKER.format(source=source, target=target))
    secure_kafka.grant(rights("worker", SOURCE=source, TARGET=target, GROUP="streamer-scorer"))
    variables = _variables(secure_kafka, way, tmp_path)
    (port,) = free_ports(1)
    produce_many(secure_kafka.bootstrap, source, [(b"k", LeadScoring.example.model_dump_json().encode())] * 20)

    worker = _streamer(tmp_path, variables, "run", "mine.py:Scorer", "--set", f"http.port={port}")
    try:
        assert len(read_topic(secure_kafka.bootstrap, target, at_least=20, timeout_s=60)) == 20
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        checked, _ = _streamer(tmp_path, variables, "check", "mine.py:Scorer", "--show").communicate(timeout=60)
    finally:
        worker.send_signal(signal.SIGTERM)
        log, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, log
    assert "librdkafka" in log or "partitions assigned" in log
    assert '# cache.secret = "**********"' in checked
    secrets = [Path(value).read_text().strip() for name, value in variables.items() if name.endswith("_FILE")]
    assert len(secrets) == 2
    for secret in secrets:
        for said in (log, metrics, checked):
            assert all(line not in said for line in secret.splitlines() if "PRIVATE KEY" not in line)


@pytest.mark.slow
def test_a_password_that_no_longer_holds_ends_the_worker_when_it_must_come_again(
    secure_kafka: SecureKafka, tmp_path: Path
) -> None:
    source = create_topic(secure_kafka.bootstrap, unique("events"), partitions=2)
    target = create_topic(secure_kafka.bootstrap, f"{source}.doubles", partitions=2)
    group = unique("rotated")
    secure_kafka.grant(rights("worker", SOURCE=source, TARGET=target, GROUP=group))
    plan = Plan(
        bootstrap=secure_kafka.sasl,
        group=group,
        source=source,
        target=target,
        slot="a",
        log=str(tmp_path / "worker.log"),
        client={**secure_kafka.by_scram()},
    )
    worker = WorkerProcess(plan)
    try:
        worker.wait_for("partitions assigned")
        secure_kafka.set_password("another")
        secure_kafka.kill()
        secure_kafka.start()
        assert worker.wait(40) == 69, worker.log()[-2000:]
        assert CURES["wrong password"] in worker.log().splitlines()[-1]
    finally:
        secure_kafka.set_password(PASSWORD)
        worker.kill()
