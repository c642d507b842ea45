"""At-least-once on a producer that fails as told. The real one is in tests/contracts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from streamer.clock import Deadline
from streamer.errors import Refused, Temporary, Wait
from streamer.kafka.at_least_once import STILL_S, AtLeastOnceSink
from streamer.testing import FakeKafka, FakeSource, ManualClock
from tests.slices import run
from tests.unit.kafka.test_exactly_once import FailingProducer, durable


def at_least_once(
    plan: dict[str, Any], clock: ManualClock | None = None
) -> tuple[AtLeastOnceSink, FailingProducer, FakeKafka]:
    clock, kafka = clock or ManualClock(), FakeKafka([])
    made: list[FailingProducer] = []

    def make(config: dict[str, Any]) -> FailingProducer:
        made.append(FailingProducer(config, plan))
        return made[0]

    return AtLeastOnceSink({}, FakeSource(kafka, clock), clock, make), made[0], kafka


def test_at_least_once_publishes_before_the_commit() -> None:
    sink, producer, kafka = at_least_once({})
    sink.write([run("target", 0, b"k", b"v")])
    assert producer.sent == [("target", 0, b"v")]
    assert kafka.committed == {}
    durable(sink)
    assert kafka.committed == {0: 1}


def test_at_least_once_lets_no_position_pass_a_message_that_was_refused() -> None:
    sink, producer, kafka = at_least_once({})
    callbacks: list[Any] = []
    refusal = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no")
    sent = SimpleNamespace(topic=lambda: "target", key=lambda: b"k", value=lambda: b"v", headers=lambda: None)
    producer.produce = lambda *given, **_: callbacks.append(given[4])  # type: ignore[method-assign]
    producer.plan["flush"] = lambda _: callbacks.pop()(refusal, sent)
    sink.write([run("target", 7, b"k", b"v")])
    with pytest.raises(Refused, match="needs WRITE on topic target"):
        durable(sink)
    assert kafka.committed == {}
    assert sink._refused[0][0] == run("target", 7, b"k", b"v")
    durable(sink)
    assert len(callbacks) == 1, "the message was not sent again"
    assert kafka.committed == {0: 1}


def test_at_least_once_sends_a_refused_dead_letter_again_with_its_headers() -> None:
    sink, producer, _ = at_least_once({})
    callbacks: list[Any] = []
    sent: list[Any] = []

    def produce(*given: Any, **named: Any) -> None:
        callbacks.append(given[4])
        sent.append(named.get("headers"))

    producer.produce = produce  # type: ignore[method-assign]
    report = SimpleNamespace(topic=lambda: "dlq", key=lambda: b"k", value=lambda: b"v", headers=lambda: None)
    producer.plan["flush"] = lambda _: callbacks.pop()(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no"), report)
    sink.write([run("dlq", 0, b"k", b"v", [("reason", b"invalid")])])
    with pytest.raises(Refused):
        durable(sink)
    durable(sink)
    assert sent == [[("reason", b"invalid")]] * 2


def test_at_least_once_gives_the_client_nothing_while_it_flushes() -> None:
    sink, producer, kafka = at_least_once({})
    sink.write([run("target", 0, b"k", b"a")])
    end = sink.begin({0: 1}, Deadline(ManualClock(), 5))
    sink.write([run("target", 0, b"k", b"b")])
    assert [value for _, _, value in producer.sent] == [b"a"]
    end()
    sink.write([run("target", 0, b"k", b"c")])
    assert [value for _, _, value in producer.sent] == [b"a", b"b", b"c"]
    sink.confirm()
    assert kafka.committed == {0: 1}


def test_at_least_once_keeps_what_is_acknowledged_until_its_positions_are_committed() -> None:
    sink, producer, kafka = at_least_once({})
    sink.write([run("target", 0, b"k", b"v")])
    commit = sink._source.commit

    def refuse(positions: Any) -> None:
        raise Wait("a rebalance is on")

    sink._source.commit = refuse  # type: ignore[method-assign]
    with pytest.raises(Wait):
        durable(sink)
    sink._source.commit = commit  # type: ignore[method-assign]
    durable(sink)
    assert kafka.committed == {0: 1}
    assert len(producer.sent) == 1


def waits(sink: AtLeastOnceSink) -> None:
    with pytest.raises(Wait):
        durable(sink)


def test_at_least_once_ends_where_a_leader_acknowledges_nothing_any_more() -> None:
    clock = ManualClock()
    sink, producer, kafka = at_least_once({}, clock)
    sink.write([run("target", 0, b"k", b"v") for _ in range(3)])
    durable(sink)
    clock.sleep(2 * STILL_S)  # an idle topic is no stand-still
    sink.write([run("target", 0, b"k", b"v") for _ in range(3)])
    producer.unacknowledged = 3
    waits(sink)
    clock.sleep(STILL_S - 1)
    producer.unacknowledged = 2
    waits(sink)
    clock.sleep(STILL_S - 1)
    sink.write([run("target", 0, b"k", b"v")])
    producer.unacknowledged = 3  # more to wait for, and nothing done
    waits(sink)
    clock.sleep(1)
    with pytest.raises(Temporary, match="start the process again"):
        durable(sink)
    assert kafka.committed == {0: 1}


def test_at_least_once_waits_for_a_leader_as_long_as_it_takes() -> None:
    clock = ManualClock()
    sink, producer, _ = at_least_once({}, clock)
    sink.write([run("target", 0, b"k", b"v")])
    producer.unacknowledged, producer.leader = 1, -1
    waits(sink)
    clock.sleep(100 * STILL_S)
    waits(sink)
    producer.unacknowledged = 0
    durable(sink)
