"""A broker that is reached through proxies of ours: each has a listener that advertises the proxy's address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.faults.proxy import Proxy
from tests.services import Kafka
from tests.services.kafka_service import broker_settings, local_broker
from tests.services.process import HOST, free_ports

HEAP_MB = 512


@contextlib.contextmanager
def proxied_kafka(*names: str) -> Iterator[tuple[Kafka, list[Proxy]]]:
    """A broker on the local JVM, and a proxy for each host name under which it is to be advertised; the broker's own
    `bootstrap` leads past them."""
    port, controller, *ports = free_ports(2 + 2 * len(names))
    settings = broker_settings(1, HOST, port, controller, f"{HOST}:{port}")
    with contextlib.ExitStack() as stack:
        proxies = []
        for number, name in enumerate(names):
            behind, before = ports[2 * number : 2 * number + 2]
            settings["listeners"] += f",PROXY{number}://{HOST}:{behind}"
            settings["advertised.listeners"] += f",PROXY{number}://{name}:{before}"
            settings["listener.security.protocol.map"] += f",PROXY{number}:PLAINTEXT"
            proxies.append(stack.enter_context(Proxy((HOST, behind), port=before)))
        kafka = local_broker(settings, HEAP_MB)
        kafka.bootstrap = f"{HOST}:{port}"
        yield stack.enter_context(kafka.launch()), proxies
