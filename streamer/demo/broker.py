"""A broker in a process of its own: librdkafka's mock cluster, which comes with the client.

It is no Kafka. Aborted records are visible, the offsets of a transaction are not stored, and a partition keeps
5 MiB or 100,000 batches and drops the oldest. This is enough for a demo that reads as it writes; it shows no
guarantee.
"""

from __future__ import annotations

import sys

from confluent_kafka import Producer

SAID = "mock: no isolation, nothing kept"


def main() -> None:
    """Print the address, then serve until stdin closes."""
    holder = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
    brokers = holder.list_topics(timeout=10).brokers.values()
    print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
