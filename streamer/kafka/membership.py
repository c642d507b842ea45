"""Whether a replica without partitions is a member of its group; its client does not say.

The client reports partitions that come and go. It reports nothing to a member that gets none (KIP-848), and one was
seen that did not join for five minutes (librdkafka 2.16). The admin client could ask the group, but it ends the process
when a coordinator dies during its question (`eonce->refcnt > 0`, seen with three brokers)."""

from __future__ import annotations

from typing import Any

import structlog
from confluent_kafka import KafkaException, TopicPartition

from streamer.clock import Clock
from streamer.errors import Temporary
from streamer.kafka.rights import ANSWER_S

log = structlog.get_logger(__name__)

ASK_EVERY_S = 10.0
STRAYS_MAX = 6
"""Tries in a row: a rebalance may take a while, but an operator waits no longer than a minute."""


class Membership:
    """Watches a replica that has no partitions. Costs nothing while it has some."""

    def __init__(self, consumer: Any, topic: str, group: str, clock: Clock) -> None:
        self._consumer = consumer
        self._topic = topic
        self._group = group
        self._clock = clock
        self._ask_at: float | None = None  # None while it serves
        self._strays = 0  # how often it was found outside while its coordinator answers
        self._spare = False

    def serves(self) -> None:
        """Note that the replica has partitions."""
        self._ask_at = None
        self._strays, self._spare = 0, False

    def spare(self) -> bool:
        """Note that the replica has no partitions. True once, when that is as it should be: the coordinator answers and
        the client has a member id. (With KIP-848 the client makes the id itself, so a lost member is not found.)

        Raises:
            Temporary: the coordinator answers, and yet the group has not let this replica in for a minute.
        """
        now = self._clock.now()
        if self._ask_at is None:
            self._ask_at = now + ASK_EVERY_S
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_EVERY_S
        if not self._coordinated():
            self._strays = 0  # a coordinator that is away is waited for
            return False
        if self._consumer.memberid():
            was, self._spare, self._strays = self._spare, True, 0
            return not was
        self._strays += 1
        if self._strays > STRAYS_MAX:
            raise Temporary(
                f"a coordinator answers, but the group {self._group} has not let this replica in for "
                f"{STRAYS_MAX * ASK_EVERY_S:.0f} s; start the process again"
            )
        return False

    def _coordinated(self) -> bool:
        """Whether the group's coordinator answers. Other brokers may answer while it is away and no member can join."""
        try:
            self._consumer.committed([TopicPartition(self._topic, 0)], timeout=ANSWER_S)
        except KafkaException:
            return False
        return True
