"""What a replica without partitions may think of that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamer.errors import Temporary
from streamer.kafka.membership import ASK_EVERY_S, STRAYS_MAX, Membership
from streamer.kafka.source import KafkaSource
from streamer.testing import ManualClock

STRAY_S = STRAYS_MAX * ASK_EVERY_S


class Silent:
    """A client that gets no partitions and tells nothing."""

    def __init__(self, member: str | None = "me") -> None:
        self.member = member
        self.answers = True
        self.asked = 0

    def committed(self, partitions: list[Any], timeout: float) -> None:
        self.asked += 1
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def consume(self, count: int, timeout: float) -> list[Any]:
        return []

    def memberid(self) -> str | None:
        return self.member

    def consumer_group_metadata(self) -> str:
        return "group"

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        """Nothing comes of it."""


class Setup:
    def __init__(self, member: str | None) -> None:
        self.client = Silent(member)
        self.clock = ManualClock()
        self.membership = Membership(self.client, "events", "g", self.clock)

    def idle(self, seconds: float) -> list[bool]:
        """What each look says, one a second."""
        said = []
        for _ in range(int(seconds)):
            said.append(self.membership.spare())
            self.clock.sleep(1)
        return said


def test_a_replica_too_many_is_told_so_once() -> None:
    setup = Setup("me")
    assert sum(setup.idle(300)) == 1
    assert setup.client.asked <= 300 / ASK_EVERY_S


def test_nobody_is_asked_about_a_replica_that_has_partitions_or_has_been_idle_for_a_moment() -> None:
    setup = Setup("me")
    for _ in range(20):
        setup.idle(ASK_EVERY_S - 1)
        setup.membership.serves()
    assert setup.client.asked == 0


def test_who_is_not_let_into_its_group_starts_again() -> None:
    setup = Setup(None)
    assert not any(setup.idle(STRAY_S))
    with pytest.raises(Temporary, match="the group g has not let this replica in"):
        setup.idle(ASK_EVERY_S * 3)


def test_a_broker_that_is_away_is_waited_for() -> None:
    setup = Setup(None)
    for _ in range(10):
        setup.idle(STRAY_S - ASK_EVERY_S)
        setup.client.answers = False
        setup.idle(STRAY_S * 5)
        setup.client.answers = True


def test_partitions_that_come_late_end_the_doubt() -> None:
    setup = Setup(None)
    for _ in range(5):
        setup.idle(STRAY_S - ASK_EVERY_S)
        setup.membership.serves()


def test_a_source_reports_that_it_has_no_partitions() -> None:
    clock = ManualClock()
    told: list[list[int]] = []
    source = KafkaSource({"group.id": "g"}, "events", "earliest", clock, lambda *_, **__: Silent())
    source.subscribe(SimpleNamespace(assigned=told.append))  # type: ignore[arg-type]
    for _ in range(60):
        source.poll(10, 0)
        clock.sleep(1)
    assert told == [[]]
