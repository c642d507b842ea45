"""The client sends again what got no answer, and does not say so: the sink goes by the time that a request took."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError

from streamer.clock import Deadline
from streamer.errors import Aborted, Unclear
from streamer.kafka.exactly_once import TransactionalSink
from streamer.kafka.line import Line
from tests.unit.kafka.test_exactly_once import FailingProducer, Setup, error, hand_over


def slow(seconds: float, lost: int = 1) -> Callable[[FailingProducer], None]:
    """A call that takes so long, and loses so many connections."""

    def call(producer: FailingProducer) -> None:
        producer.clock.sleep(seconds)
        producer.lost += lost

    return call


@pytest.mark.parametrize("call", ["offsets", "commit"])
@pytest.mark.parametrize(("seconds", "lost", "producers"), [(0.07, 1, 1), (0.1, 1, 2), (3.0, 0, 1)])
def test_a_request_that_may_have_been_sent_twice_costs_a_new_producer(
    call: str, seconds: float, lost: int, producers: int
) -> None:
    """The client rests 100 ms, less a fifth, before it sends again what was lost, and does not say that it did; but it
    counts the connections that it lost."""
    setup = Setup()
    setup.plan[call] = slow(seconds, lost)
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == producers
    assert setup.producers[0].config["retry.backoff.ms"] == "100"


def test_a_client_that_does_not_say_how_its_line_is_costs_a_new_producer() -> None:
    def stop_talking(producer: FailingProducer) -> None:
        producer.clock.sleep(0.1)
        producer.silent = True

    setup = Setup()
    setup.plan["commit"] = stop_talking
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == 2


def test_a_line_that_is_lost_and_found_while_nothing_is_asked_costs_nothing() -> None:
    setup = Setup()
    setup.write()
    setup.commit()
    setup.producers[0].lost = 1
    setup.commit()
    assert len(setup.producers) == 1


def test_messages_may_take_their_time_for_the_broker_knows_a_late_copy_of_one() -> None:
    setup = Setup()
    setup.plan["flush"] = slow(3)
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == 1


def test_an_abort_that_may_have_been_sent_twice_costs_a_new_producer() -> None:
    setup = Setup(commit=error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True))
    setup.plan["abort"] = slow(0.1)
    setup.write()
    with pytest.raises(Aborted):
        setup.commit()
    setup.commit()
    assert len(setup.producers) == 2


def test_a_roll_back_that_may_have_been_sent_twice_costs_a_new_producer() -> None:
    setup = Setup()
    setup.plan["abort"] = slow(0.1)
    setup.write()
    hand_over(setup)
    setup.sink.forget([0])
    setup.commit()
    assert len(setup.producers) == 2


@pytest.mark.parametrize(
    ("asked", "rest", "most"), [("10", "100", "1000"), ("600", "600", "1000"), ("2000", "2000", "2000")]
)
def test_the_rest_before_a_repeated_request_is_never_short(asked: str, rest: str, most: str) -> None:
    setup = Setup()
    sink = TransactionalSink({"retry.backoff.ms": asked}, "id", setup.source, "source", setup.clock, setup.make)
    sink.recover(Deadline(setup.clock, 5))
    config = setup.producers[0].config
    assert (config["retry.backoff.ms"], config["retry.backoff.max.ms"]) == (rest, most)


STUMBLE = AttributeError("'Logger' object has no attribute 'log'")


def test_a_client_that_stumbles_while_it_tells_is_asked_again_by_the_next_call() -> None:
    setup = Setup()
    setup.write()
    setup.commit()
    setup.plan["poll"] = STUMBLE
    setup.sink.serve()
    setup.plan["poll"] = STUMBLE
    assert not Line().held(setup.producers[-1], setup.clock.now(), setup.clock)


@pytest.mark.parametrize("call", ["init", "abort"])
def test_a_client_that_stumbles_as_it_begins_or_rolls_back_leaves_it_unclear(call: str) -> None:
    refused = error(KafkaError.TOPIC_AUTHORIZATION_FAILED, txn_requires_abort=True)
    setup = Setup(**{call: STUMBLE, "produce": refused})
    setup.write()
    with pytest.raises(Unclear, match="Logger"):
        setup.commit()
