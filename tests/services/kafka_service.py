"""A real Kafka broker: the one you name, one in Docker, or one on the local JVM from Maven Central's jars."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.admin import admin_of
from tests.services.containers import DockerProcess, docker_host
from tests.services.process import (
    HOST,
    LocalProcess,
    NotOurs,
    Process,
    Service,
    ServiceError,
    climb,
    free_ports,
)

VARIABLE = "STREAMER_TEST_KAFKA"
VERSION = "4.4.0"
ENDS_EVERY_TRANSACTION = "4.2.0"
"""Kafka 4.3.0 to 4.4.0 leave out the mark of a transaction's end on a partition that has no leader at that moment, as
when the only broker has just restarted (KAFKA-20734): what it held stays open, or passes for part of the next."""
IMAGE = f"apache/kafka:{VERSION}"  # the same broker and the same settings as on the JVM
CLUSTER_ID = "c3RyZWFtZXItdGVzdHMtMQ"  # any 16 bytes in base64
JAVA_FLOOR = 17
POM = Path(__file__).with_name("pom.xml")

SETTINGS = {
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
    # One broker: Kafka's own topics have one copy, and few partitions so that they are loaded at once.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    # A member that was killed is missed after 3 s instead of 45 s (the minimum must be lowered with it).
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # of the classic protocol, where the client asks for its own
    "group.consumer.session.timeout.ms": "3000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.assignment.interval.ms": "0",
    # A transaction whose owner was killed is aborted soon after its timeout; the default looks every 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    # After kill -9 the controller lets the broker back in when the old session is over: 3 s instead of 9.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default takes 128 MB of a small heap
}


class Kafka(Service):
    """A broker at `bootstrap`. Killed or stopped, `start` brings it back with the same data and port."""

    def __init__(self, bootstrap: str, process: Process) -> None:
        super().__init__(process)
        self.bootstrap = bootstrap

    def probe(self) -> None:
        # A client for each look at a port that is still closed would take a whole core from the broker that starts.
        host, port = self.bootstrap.split(",")[0].rsplit(":", 1)
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        if not admin_of(self.bootstrap).list_topics(timeout=1).brokers:
            raise ServiceError("no broker has registered yet")

    def data(self) -> list[Path]:
        """The folder of its logs, if it runs on the local JVM."""
        if not isinstance(self.process, LocalProcess):
            raise ServiceError(f"{self} does not run on the local JVM: its logs cannot be read")
        return [self.process.log.parent / "data"]

    def __repr__(self) -> str:
        return f"Kafka({self.bootstrap})"


def start_kafka() -> Kafka:
    """A running broker by the first way that works; ServiceError with all reasons when none does."""
    address = os.environ.get(VARIABLE)
    if address:
        return external_kafka(address)
    return climb(
        "Kafka",
        VARIABLE,
        [
            (f"Docker, image {IMAGE}", docker_kafka),
            (f"Java {JAVA_FLOOR} or newer and Maven, Kafka {VERSION} from Maven Central", local_kafka),
        ],
    )


def external_kafka(address: str) -> Kafka:
    kafka = Kafka(address, NotOurs(VARIABLE))
    kafka.start_s = 15
    return kafka.start()


def docker_kafka(node_id: int = 1) -> Kafka:
    host = docker_host()
    (port,) = free_ports(1)
    settings = broker_settings(node_id, "0.0.0.0", port, 9093, advertised=f"{host}:{port}")
    env = {"KAFKA_" + name.replace(".", "_").upper(): value for name, value in settings.items()}
    process = DockerProcess(IMAGE, port, {**env, "CLUSTER_ID": CLUSTER_ID})
    return Kafka(f"{host}:{port}", process).launch()


def local_kafka(node_id: int = 1, heap_mb: int = 768, version: str = VERSION) -> Kafka:
    """A KRaft broker and controller in one JVM, in a temporary folder that `close` deletes."""
    port, controller = free_ports(2)
    settings = broker_settings(node_id, HOST, port, controller, f"{HOST}:{port}")
    return local_broker(settings, heap_mb, version=version).launch()


def local_broker(settings: Mapping[str, str], heap_mb: int, jvm: Sequence[str] = (), version: str = VERSION) -> Kafka:
    """A broker with these settings on the local JVM: its storage is formatted, and it is not started yet.

    `jvm`: options of the JVM beyond its memory.
    """
    java, jars = find_java(), fetch_jars(version)
    folder = Path(tempfile.mkdtemp(prefix="streamer-kafka-"))
    properties = folder / "server.properties"
    lines = {**settings, "log.dirs": str(folder / "data")}.items()
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines))
    run = [java, f"-Xmx{heap_mb}m", *jvm, "-Dlog4j2.level=WARN", "-cp", f"{jars}/*"]
    _run(
        [*run, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)],
        "Kafka could not format its storage",
    )
    process = LocalProcess([*run, f"-Xms{heap_mb}m", "kafka.Kafka", str(properties)], folder)
    return Kafka(settings["advertised.listeners"].removeprefix("PLAINTEXT://"), process)


def find_java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not java or not Path(java).exists():
        raise ServiceError(f"no java in JAVA_HOME or on PATH; install a JRE, {JAVA_FLOOR} or newer")
    said = _run([java, "-version"], f"{java} does not run")
    found = re.search(r'version "(\d+)', said)
    if not found or int(found[1]) < JAVA_FLOOR:
        raise ServiceError(f"{java} is too old for Kafka {VERSION}, which needs {JAVA_FLOOR} or newer: {said}")
    return java


def fetch_jars(version: str = VERSION) -> Path:
    """Kafka's jars of a version, fetched once per machine by Maven and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamer"
    jars = cache / f"kafka-{version}"
    if jars.exists():
        return jars
    maven = shutil.which("mvn")
    if not maven:
        raise ServiceError("no mvn on PATH to fetch Kafka's jars; install Maven")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        part = Path(scratch) / "jars"
        goal = ["-q", "-B", "-f", str(POM), f"-Dkafka.version={version}"]
        goal += ["dependency:copy-dependencies", f"-DoutputDirectory={part}"]
        _run([maven, *goal], "Maven could not fetch Kafka; is its repository reachable?", timeout_s=600)
        try:
            part.rename(jars)  # whole or not at all: a fetch that was cut short leaves nothing
        except OSError:
            if not jars.exists():  # another run was quicker: use its folder
                raise
    return jars


def broker_settings(node_id: int, bind: str, port: int, controller: int, advertised: str) -> dict[str, str]:
    """Of a broker that is its own controller."""
    return {
        **SETTINGS,
        "node.id": str(node_id),
        "process.roles": "broker,controller",
        "controller.quorum.voters": f"{node_id}@{HOST}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{bind}:{port},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }


def _run(command: list[str], failure: str, timeout_s: float = 60) -> str:
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{failure}: no end after {timeout_s:.0f} s") from error
    if done.returncode:
        raise ServiceError(f"{failure}:\n{done.stdout[-2000:]}")
    return done.stdout
