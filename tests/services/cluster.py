"""Three real Kafka brokers on the local JVM that hold copies of each other's logs, so that one of them may die."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.services.admin import admin_of
from tests.services.kafka_service import Kafka, broker_settings, local_broker
from tests.services.process import HOST, ServiceError, free_ports, tail

BROKERS = 3
HEAP_MB = 384
# Brokers that start again and again: a slower compiler that is done sooner leaves the workers their cores.
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# A broker that was killed reads its logs again before it answers, and three share one small machine.
READY_S = 180.0

REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A follower that is dead or frozen stops holding up acks=all after 3 s instead of 30.
    "replica.lag.time.max.ms": "3000",
    # A run without an end deletes what is done with, and a broker deletes whole segments only.
    "log.segment.bytes": "67108864",
    # All three share one small machine.
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Cluster:
    """Brokers 1 to 3, each a `Kafka` of its own; `bootstrap` names all of them."""

    def __init__(self, brokers: Sequence[Kafka]) -> None:
        self.brokers = list(brokers)
        for broker in self.brokers:
            broker.start_s = READY_S
        self.bootstrap = ",".join(broker.bootstrap for broker in brokers)
        self._admin = admin_of(self.bootstrap)

    def launch(self) -> Self:
        """Start all, from this thread: a broker ends with the thread that started it."""
        try:
            for broker in self.brokers:
                broker.process.start()
            self.wait_until_in_sync()
        except BaseException:
            self.close()
            raise
        return self

    def wait_until_in_sync(self, timeout_s: float = READY_S) -> None:
        """Wait until every broker has registered and holds all that it should: only then may the next one die."""
        deadline = time.monotonic() + timeout_s
        while missing := self._missing():
            for broker in self.brokers:
                broker.process.check()
            if time.monotonic() > deadline:
                raise ServiceError(f"{self} is not in sync after {timeout_s:.0f} s: {missing}")
            time.sleep(0.2)

    def start(self, number: int) -> None:
        """Start a broker that was killed or stopped, and wait until it is in sync again."""
        broker = self.brokers[number]
        try:
            broker.start()  # returns when itself answers; until then the others may think it is still there
            self.wait_until_in_sync()
        except ServiceError as error:
            raise ServiceError(f"{error}\n{tail(broker.data()[0].with_name('server.log'))}") from error

    def leader(self, topic: str, partition: int) -> int:
        """The number of the broker that leads a partition: of an internal topic, the coordinator of what is in it."""
        seen = self._admin.list_topics(topic, timeout=10)
        leader = int(seen.topics[topic].partitions[partition].leader)
        if leader < 1:
            raise ServiceError(f"{topic}/{partition} has no leader now")
        return leader - 1

    def data(self) -> list[Path]:
        """The folder of each broker's logs."""
        return [folder for broker in self.brokers for folder in broker.data()]

    def close(self) -> None:
        """Stop all and delete their data. No broker waits for one that has gone before it, so they are killed."""
        for broker in self.brokers:
            broker.kill()
            broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Cluster({self.bootstrap})"

    def _missing(self) -> str:
        """What is not there yet; empty when nothing is missing."""
        try:
            seen = self._admin.list_topics(timeout=2)
        except Exception as error:  # a client has many ways to say "not yet"
            return str(error)
        if len(seen.brokers) < len(self.brokers):
            return f"brokers {sorted(seen.brokers)}"
        short = [
            f"{name}/{number}"
            for name, topic in seen.topics.items()
            for number, one in topic.partitions.items()
            if len(one.isrs) < len(one.replicas) or one.leader < 1
        ]
        return f"partitions out of sync: {short[:5]}" if short else ""


def start_cluster(count: int = BROKERS, heap_mb: int = HEAP_MB) -> Cluster:
    """A running cluster on the local JVM, in temporary folders that `close` deletes."""
    ports = free_ports(2 * count)
    clients, controllers = ports[:count], ports[count:]
    voters = ",".join(f"{node}@{HOST}:{port}" for node, port in enumerate(controllers, 1))
    shared = {**(REPLICATED if count == BROKERS else {}), "controller.quorum.voters": voters}

    def formatted(node: int, port: int, controller: int) -> Kafka:
        own = broker_settings(node, HOST, port, controller, f"{HOST}:{port}")
        return local_broker({**own, **shared}, heap_mb, JVM)

    with ThreadPoolExecutor(count) as pool:
        brokers = list(pool.map(formatted, range(1, count + 1), clients, controllers))
    return Cluster(brokers).launch()
