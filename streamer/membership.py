"""Is this replica a member of its group, when its client says nothing of it?

The client tells of partitions that come and go. A member that gets none it tells nothing (KIP-848), and one was seen
that sat idle for five minutes under load, its group waiting for it (librdkafka 2.16). So a replica without partitions
asks the group's coordinator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamer.clock import Clock
from streamer.errors import Temporary

log = structlog.get_logger(__name__)

ASK_EVERY_S = 10.0
ANSWER_S = 5.0
STRAY_S = 60.0
"""A rebalance may take its time, and a broker's answer may be older than what the client knows."""

Describe = Callable[[Mapping[str, Any]], "tuple[Any, Future[Any]]"]
"""Asks who is in the group of these settings: what must live until the answer is there, and the answer."""


def described(config: Mapping[str, Any]) -> tuple[Any, Future[Any]]:
    """Ask the broker; READ of the group suffices."""
    own = {name: value for name, value in config.items() if not callable(value)}
    client = AdminClient({**own, "log_level": 0})
    group = config["group.id"]
    return client, client.describe_consumer_groups([group], request_timeout=ANSWER_S)[group]


class Membership:
    """What the group says of a replica that has no partitions. Costs nothing while it has some."""

    def __init__(self, config: Mapping[str, Any], clock: Clock, describe: Describe = described) -> None:
        self._config = config
        self._clock = clock
        self._describe = describe
        self._asked: tuple[Any, Future[Any]] | None = None
        self._ask_at: float | None = None  # None while it serves
        self._stray_since: float | None = None
        self._spare = False

    def serves(self) -> None:
        """It has partitions."""
        if self._ask_at is not None:
            self._asked = self._ask_at = self._stray_since = None
            self._spare = False

    def spare(self, member: str | None) -> bool:
        """It has none; whether the group says, for the first time since it has none, that this is as it should be.

        Raises:
            Temporary: the group does not know it, or has given it partitions that never came.
        """
        now = self._clock.now()
        if self._ask_at is None:
            self._ask_at = now + ASK_EVERY_S
        if self._asked is None:
            if now >= self._ask_at:
                self._ask_at = now + ASK_EVERY_S
                self._asked = self._describe(self._config)
            return False
        _, answer = self._asked
        if not answer.done():
            return False
        self._asked = None
        try:
            has = {one.member_id: one.assignment.topic_partitions for one in answer.result().members}.get(member or "")
        except KafkaException as error:
            self._stray_since = None  # a broker that does not answer is no fault of ours
            log.warning("who is in the group is not to be learnt", error=error.args[0].str())
            return False
        if has is not None and not has:
            was, self._spare, self._stray_since = self._spare, True, None
            return not was
        self._heed_stray(now)
        return False

    def _heed_stray(self, now: float) -> None:
        if self._stray_since is None:
            self._stray_since = now
        elif now - self._stray_since >= STRAY_S:
            raise Temporary(
                f"the broker answers, but the client has not come into the group {self._config['group.id']} "
                f"for {now - self._stray_since:.0f} s; start the process again"
            )
