"""Is this replica a member of its group, when its client says nothing of it?

The client tells of partitions that come and go. To a member that gets none it says nothing (KIP-848), and one was seen
that did not join for five minutes (librdkafka 2.16). The admin client, which could ask the group itself, is no way out:
when a coordinator dies under its question it ends the process (`eonce->refcnt > 0`, seen with three brokers).
"""

from __future__ import annotations

from typing import Any

import structlog
from confluent_kafka import KafkaException

from streamer.clock import Clock
from streamer.errors import Temporary

log = structlog.get_logger(__name__)

ASK_EVERY_S = 10.0
ANSWER_S = 1.0
STRAY_S = 60.0
"""A rebalance may take its time; an operator's patience is no longer."""


def answers(consumer: Any, topic: str) -> bool:
    """Whether any broker answers this client, within a second."""
    try:
        consumer.list_topics(topic, timeout=ANSWER_S)
    except KafkaException:
        return False
    return True


class Membership:
    """What a replica without partitions may think of that. Costs nothing while it has some."""

    def __init__(self, consumer: Any, topic: str, group: str, clock: Clock) -> None:
        self._consumer = consumer
        self._topic = topic
        self._group = group
        self._clock = clock
        self._ask_at: float | None = None  # None while it serves
        self._stray_since: float | None = None
        self._spare = False

    def serves(self) -> None:
        """It has partitions."""
        self._ask_at = self._stray_since = None
        self._spare = False

    def spare(self) -> bool:
        """It has none; whether this is, for the first time since it has none, as it should be: a broker answers, and
        the client has a member id. (With KIP-848 it makes one by itself, so that such a stray is not found out.)

        Raises:
            Temporary: a broker answers, and yet the group has not let this replica in for a minute.
        """
        now = self._clock.now()
        if self._ask_at is None:
            self._ask_at = now + ASK_EVERY_S
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_EVERY_S
        if not answers(self._consumer, self._topic):
            self._stray_since = None  # a broker that is away is waited for
            return False
        if self._consumer.memberid():
            was, self._spare, self._stray_since = self._spare, True, None
            return not was
        if self._stray_since is None:
            self._stray_since = now
        elif now - self._stray_since >= STRAY_S:
            raise Temporary(
                f"a broker answers, but the group {self._group} has not let this replica in for "
                f"{now - self._stray_since:.0f} s; start the process again"
            )
        return False
