"""A producer that failed is freed: confluent-kafka 2.16 never frees an error that it raises, nor the exception that was
being handled when it did, whose stack may hold the producer."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from streamer.clock import Deadline
from streamer.errors import Unclear, Unreachable
from tests.unit.kafka.test_exactly_once import FailingProducer, Setup, error


def refuse(_: FailingProducer) -> None:
    """Raise as the real client does, from C."""
    Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}).list_topics(timeout=0.01)


def needs_an_abort(_: FailingProducer) -> None:
    raise error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)


def too_full(producer: FailingProducer) -> None:
    producer.clock.sleep(60)
    raise BufferError


@pytest.mark.parametrize(
    "plan",
    [{"commit": needs_an_abort}, {"produce": too_full}],
    ids=["a commit", "a full queue"],
)
def test_a_producer_whose_abort_fails_is_freed(plan: dict[str, Any]) -> None:
    setup = Setup(**plan, abort=refuse)
    setup.write()
    with pytest.raises(Unclear):
        setup.commit()
    assert is_freed(setup)


def test_a_producer_that_is_not_let_in_is_freed() -> None:
    setup = Setup()
    setup.sink.recover(Deadline(setup.clock, 5))
    refused = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error")
    setup.plan |= {
        "init": error(KafkaError._TIMED_OUT),
        "poll": lambda producer: producer.config["error_cb"](refused),
        "list_topics": refuse,
    }
    with pytest.raises(Unreachable):
        setup.sink.recover(Deadline(setup.clock, 5))
    assert "list_topics" in setup.producers[-1].calls
    assert is_freed(setup)


def is_freed(setup: Setup) -> bool:
    """Whether the last producer is no more, once another is there."""
    failed = weakref.ref(setup.producers.pop())
    setup.sink.recover(Deadline(setup.clock, 5))
    gc.collect()
    return failed() is None


def test_a_producer_that_hangs_in_a_commit_is_heard_until_it_comes_back() -> None:
    hangs, comes_back = threading.Event(), threading.Event()

    def hang(_: FailingProducer) -> None:
        hangs.set()
        comes_back.wait(30)

    setup = Setup(offsets=hang)
    setup.write()
    commit = setup.sink.begin({0: 1}, Deadline(setup.clock, 5))
    left = threading.Thread(target=commit)
    left.start()
    assert hangs.wait(30)
    setup.sink.recover(Deadline(setup.clock, 5))
    old, new = setup.producers
    setup.sink.serve()
    assert (old.calls[-1], new.calls[-1]) == ("poll", "poll"), "what nobody hears is kept"
    old.config["error_cb"](KafkaError(KafkaError._TRANSPORT))
    setup.write()
    setup.commit()
    assert len(setup.producers) == 2, "its troubles are not those of its successor"
    comes_back.set()
    left.join(30)
    heard = len(old.calls)
    setup.sink.serve()
    assert len(old.calls) == heard
