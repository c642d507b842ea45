"""The admin client of the tests, for brokers that come and go."""

from __future__ import annotations

import functools

from confluent_kafka.admin import AdminClient


@functools.lru_cache(maxsize=4)
def admin_of(bootstrap: str) -> AdminClient:
    """One client for all questions to these brokers: one that is thrown away while a broker owes it an answer takes a
    whole core until that is overdue (librdkafka 2.16 polls without waiting while it terminates)."""
    return AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "reconnect.backoff.max.ms": "300",
            "socket.timeout.ms": "15000",
        }
    )
