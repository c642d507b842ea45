"""What a replica without partitions learns of itself from its group."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamer.errors import Temporary
from streamer.membership import ASK_EVERY_S, STRAY_S, Membership
from streamer.source import KafkaSource
from streamer.testing import ManualClock

ME = "me"
AWAY = KafkaException(KafkaError(KafkaError._TIMED_OUT))


def group(**members: list[int]) -> Future[Any]:
    """An answer that is there: partitions by member."""
    answer: Future[Any] = Future()
    answer.set_result(
        SimpleNamespace(
            members=[
                SimpleNamespace(member_id=name, assignment=SimpleNamespace(topic_partitions=partitions))
                for name, partitions in members.items()
            ]
        )
    )
    return answer


def away() -> Future[Any]:
    answer: Future[Any] = Future()
    answer.set_exception(AWAY)
    return answer


class Setup:
    def __init__(self, *answers: Future[Any]) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.clock = ManualClock()
        self.membership = Membership({"group.id": "g"}, self.clock, self._describe)

    def _describe(self, config: Mapping[str, Any]) -> tuple[Any, Future[Any]]:
        self.asked += 1
        return None, self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def idle(self, seconds: float) -> list[bool]:
        """What each look says, one a second."""
        said = []
        for _ in range(int(seconds)):
            said.append(self.membership.spare(ME))
            self.clock.sleep(1)
        return said


def test_a_replica_too_many_is_told_so_once() -> None:
    setup = Setup(group(me=[], other=[0, 1]))
    assert sum(setup.idle(300)) == 1
    assert setup.asked <= 300 / ASK_EVERY_S


def test_nobody_is_asked_about_a_replica_that_has_partitions_or_has_been_idle_for_a_moment() -> None:
    setup = Setup(group(me=[]))
    for _ in range(20):
        setup.idle(ASK_EVERY_S - 1)
        setup.membership.serves()
    assert setup.asked == 0


@pytest.mark.parametrize("seen", [group(other=[0, 1]), group(me=[0], other=[1])])
def test_who_is_not_in_the_group_or_never_gets_what_it_was_given_starts_again(seen: Future[Any]) -> None:
    setup = Setup(seen)
    assert not any(setup.idle(STRAY_S))
    with pytest.raises(Temporary, match="not come into the group g"):
        setup.idle(ASK_EVERY_S * 3)


def test_a_broker_that_is_away_is_waited_for() -> None:
    stray = group(other=[0])
    setup = Setup(*[stray, stray, stray, away()] * 20)
    assert not any(setup.idle(600))


def test_partitions_that_come_late_end_the_doubt() -> None:
    setup = Setup(group(other=[0]))
    for _ in range(5):
        setup.idle(STRAY_S - ASK_EVERY_S)
        setup.membership.serves()


def test_an_answer_that_is_not_there_yet_is_not_asked_for_again() -> None:
    setup = Setup(Future())
    setup.idle(120)
    assert setup.asked == 1


class Silent:
    """A client that joins and tells nothing, as with KIP-848 and more replicas than partitions."""

    def consume(self, count: int, timeout: float) -> list[Any]:
        return []

    def memberid(self) -> str:
        return ME

    def consumer_group_metadata(self) -> str:
        return "group"

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        """Nothing comes of it."""


def test_a_source_reports_that_it_has_no_partitions() -> None:
    clock = ManualClock()
    told: list[list[int]] = []
    source = KafkaSource(
        {"group.id": "g"}, "events", "earliest", clock, lambda *_, **__: Silent(), lambda _: (None, group(me=[]))
    )
    source.subscribe(SimpleNamespace(assigned=told.append))  # type: ignore[arg-type]
    for _ in range(60):
        source.poll(10, 0)
        clock.sleep(1)
    assert told == [[]]
