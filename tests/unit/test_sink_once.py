"""The client sends again what got no answer, and does not say so: the sink goes by the time that a request took."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError

from streamer.clock import Deadline
from streamer.errors import Aborted
from streamer.sink import TransactionalSink
from tests.unit.test_sink import Setup, error, hand_over


def slow(setup: Setup, seconds: float) -> Callable[[object], None]:
    """A call that takes so long."""
    return lambda producer: setup.clock.sleep(seconds)


@pytest.mark.parametrize("call", ["offsets", "commit"])
@pytest.mark.parametrize(("seconds", "producers"), [(0.37, 1), (0.4, 2)])
def test_a_request_that_may_have_been_sent_twice_costs_a_new_producer(
    call: str, seconds: float, producers: int
) -> None:
    """The client rests 500 ms, less a fifth, before it sends again what was lost, and does not say that it did."""
    setup = Setup()
    setup.plan[call] = slow(setup, seconds)
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == producers
    assert setup.producers[0].config["retry.backoff.ms"] == "500"


def test_messages_may_take_their_time_for_the_broker_knows_a_late_copy_of_one() -> None:
    setup = Setup()
    setup.plan["flush"] = slow(setup, 3)
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == 1


def test_an_abort_that_may_have_been_sent_twice_costs_a_new_producer() -> None:
    setup = Setup(commit=error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True))
    setup.plan["abort"] = slow(setup, 0.4)
    setup.write()
    with pytest.raises(Aborted):
        setup.commit()
    setup.commit()
    assert len(setup.producers) == 2


def test_a_roll_back_that_may_have_been_sent_twice_costs_a_new_producer() -> None:
    setup = Setup()
    setup.plan["abort"] = slow(setup, 0.4)
    setup.write()
    hand_over(setup)
    setup.sink.forget([0])
    setup.commit()
    assert len(setup.producers) == 2


@pytest.mark.parametrize(
    ("asked", "rest", "most"), [("10", "500", "1000"), ("600", "600", "1000"), ("2000", "2000", "2000")]
)
def test_the_rest_before_a_repeated_request_is_never_short(asked: str, rest: str, most: str) -> None:
    setup = Setup()
    sink = TransactionalSink({"retry.backoff.ms": asked}, "id", setup.source, "source", setup.clock, setup.make)
    sink.recover(Deadline(setup.clock, 5))
    config = setup.producers[0].config
    assert (config["retry.backoff.ms"], config["retry.backoff.max.ms"]) == (rest, most)
