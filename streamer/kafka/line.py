"""The state of a producer's connections, from the statistics of its client.

When an answer is lost, librdkafka (2.16) repeats the request inside a call that then succeeds, and reports nothing of a
coordinator's connection. Only its statistics count it: `disconnects` and `req_timeouts` of each broker.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from confluent_kafka import KafkaException

from streamer.clock import Clock

EVERY_MS = 200
"""How often the client emits statistics. They stay in memory until they are asked for, so they cost only the
formatting."""
WAIT_S = 5 * EVERY_MS / 1000
"""A client that emits no statistics for this long is not trusted."""
LOOK_S = 0.02
RETRY_MS = 100
"""How long the client waits before it repeats a request without an answer (less a fifth at most)."""
RETRY_MAX_MS = 1000
SHORTEST_REST = 0.75
STUMBLES = (AttributeError, SystemError)
"""confluent-kafka 2.16 raises these from any call that serves callbacks, when a fatal error arrives together with
something to log: `Logger has no attribute log`. They do not say whether the call succeeded."""


def hear(producer: Any) -> None:
    """Serve the callbacks of a producer. If that fails, the next call of the producer says why."""
    with suppress(KafkaException, *STUMBLES):
        producer.poll(0)


class Broker(msgspec.Struct):
    """Counts of one connection, since the client was made."""

    disconnects: int = 0
    req_timeouts: int = 0


class Statistics(msgspec.Struct):
    """`ts` is in microseconds of the monotonic clock (STATISTICS.md of librdkafka)."""

    ts: int = -1
    brokers: dict[str, Broker] = {}


class Line:
    """All connections of one producer. `told` is its `stats_cb`."""

    def __init__(self) -> None:
        self._said: str | bytes = b"{}"

    def told(self, said: str) -> None:
        """Keep the latest statistics."""
        self._said = said

    def held(self, producer: Any, since: float, clock: Clock) -> bool:
        """Whether no connection was lost up to this moment. Waits until the statistics cover it."""
        until = clock.now() + WAIT_S
        while clock.now() < until:
            try:
                producer.poll(LOOK_S)
            except (KafkaException, *STUMBLES):
                return False
            seen = msgspec.json.decode(self._said, type=Statistics)
            if seen.ts / 1e6 >= since:
                return not any(broker.disconnects or broker.req_timeouts for broker in seen.brokers.values())
        return False
