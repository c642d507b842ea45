"""What happened on a producer's connections, as its client counts it.

librdkafka sends a request again when its answer was lost, inside a call that then succeeds, and reports nothing of a
coordinator's connection (2.16). Its statistics count it: `disconnects` and `req_timeouts` of each broker.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from confluent_kafka import KafkaException

from streamer.clock import Clock

EVERY_MS = 200
"""How often the client tells. Told lies in memory until somebody asks, so it costs the formatting alone."""
WAIT_S = 5 * EVERY_MS / 1000
"""A client that says nothing for so long is not believed in."""
LOOK_S = 0.02
RETRY_MS = 100
"""How long the client rests, less a fifth at most, before it sends a request again whose answer was lost."""
RETRY_MAX_MS = 1000
SHORTEST_REST = 0.75
STUMBLES = (AttributeError, SystemError)
"""confluent-kafka 2.16 raises them out of any call that serves callbacks, when it hears of a fatal error and has
something to log at once: `Logger has no attribute log`. They say nothing of what became of the call."""


def hear(producer: Any) -> None:
    """Let a producer tell what it has to tell. If that fails, whoever uses it next is told why."""
    with suppress(KafkaException, *STUMBLES):
        producer.poll(0)


class Broker(msgspec.Struct):
    """Of one connection, since the client was made."""

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
        """Keep what the client said last."""
        self._said = said

    def held(self, producer: Any, since: float, clock: Clock) -> bool:
        """Whether nothing was lost on it, up to this moment of the clock at least. Waits for the client to say so."""
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
