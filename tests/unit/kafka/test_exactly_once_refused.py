"""What only a person can mend is refused by name, and never tried for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError
from prometheus_client import CollectorRegistry

from streamer.clock import Clock, Deadline
from streamer.engine.checkpoint import REFUSALS_MAX, Checkpoint, CheckpointParts, CommitPolicy
from streamer.engine.committer import GRACE_S
from streamer.errors import Aborted, Reason, Refused, StreamerError, Unclear, Unreachable
from streamer.ports import Commit
from streamer.records import Rejected
from streamer.telemetry.metrics import Metrics
from streamer.wire.codec import Identity, JsonCodec
from tests.echo import Echo
from tests.slices import row
from tests.unit.kafka.test_exactly_once import FailingProducer, Setup, error


def test_a_missing_right_says_which_to_grant() -> None:
    setup = Setup(produce=error(KafkaError.TOPIC_AUTHORIZATION_FAILED, txn_requires_abort=True))
    setup.write()
    with pytest.raises(Refused, match="needs WRITE on topic target"):
        setup.commit()
    assert setup.asked == ["target"]


def test_messages_that_were_not_taken_are_refused_by_name_though_the_client_does_not_say_why() -> None:
    setup = Setup(commit=error(KafkaError._INCONSISTENT, txn_requires_abort=True))
    setup.write()
    with pytest.raises(Refused, match="needs WRITE on topic target"):
        setup.commit()
    assert setup.producers[-1].calls[-2:] == ["abort", "poll"], "rolled back before anybody is asked"


def test_messages_that_were_not_taken_while_nobody_forbids_it_are_written_again() -> None:
    setup = Setup(commit=error(KafkaError._INCONSISTENT, txn_requires_abort=True))
    setup.sink._forbidden = lambda *_: ""
    setup.write()
    with pytest.raises(Aborted) as caught:
        setup.commit()
    assert not isinstance(caught.value, Refused)


def test_what_the_client_itself_will_not_take_is_refused_and_not_in_doubt() -> None:
    setup = Setup(produce=error(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    setup.write()
    with pytest.raises(Refused, match="needs WRITE on topic target"):
        setup.commit()


def test_a_missing_right_on_the_transactional_id_names_it() -> None:
    setup = Setup(init=error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, fatal=True))
    setup.write()
    with pytest.raises(Refused, match="needs WRITE on transactional id id"):
        setup.commit()


def test_who_is_not_let_in_does_not_try_for_ever() -> None:
    setup = Setup(init=error(KafkaError._TIMED_OUT))

    def heard(producer: FailingProducer) -> None:
        said = "sasl_ssl://b:1/bootstrap: SASL authentication error: Authentication failed (after 3ms)"
        producer.config["error_cb"](KafkaError(KafkaError._AUTHENTICATION, said))

    setup.plan["poll"] = heard
    setup.write()
    with pytest.raises(Unreachable, match=r"Authentication failed.*sasl.password"):
        setup.commit()


@pytest.mark.parametrize(("others", "kind"), [(None, Unclear), (error(KafkaError._TRANSPORT), Unreachable)])
def test_who_was_let_in_once_is_not_refused_by_one_broker_while_others_answer(
    others: Exception | None, kind: type[StreamerError]
) -> None:
    """A coordinator dies, and the new producer comes by the one broker with a bad certificate first."""
    setup = Setup()
    setup.write()
    setup.commit()

    def heard(producer: FailingProducer) -> None:
        said = "sasl_ssl://b:1/bootstrap: SASL authentication error: Authentication failed (after 3ms)"
        producer.config["error_cb"](KafkaError(KafkaError._AUTHENTICATION, said))

    setup.plan |= {"init": error(KafkaError._TIMED_OUT), "poll": heard, "list_topics": others}
    with pytest.raises(kind):
        setup.sink.recover(Deadline(setup.clock, 5.0))


def test_a_missing_topic_says_how_to_make_it() -> None:
    setup = Setup()
    setup.write(topic="gone")
    with pytest.raises(Refused, match="streamer topics apply"):
        setup.commit()
    assert "begin" not in setup.producers[0].calls


def test_a_new_producer_asks_again_whether_the_topics_are_there() -> None:
    """It would wait for one that was deleted, and say only that it ran out of time, again and again."""
    setup = Setup()
    setup.write()
    setup.commit()
    setup.sink.recover(Deadline(setup.clock, 10))
    setup.write()
    setup.commit()
    assert [producer.calls.count("list_topics") for producer in setup.producers] == [1, 1]


class ImpatientCommitter:
    """Makes a commit at once, and does not listen to what it says after its deadline, as `ThreadCommitter`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._error: StreamerError | None = None

    def start(self, commit: Commit, deadline: Deadline) -> None:
        give_up_at, self._error = self._clock.now() + deadline.left() + GRACE_S, None
        try:
            commit()
        except StreamerError as error:
            self._error = error
        if self._clock.now() > give_up_at:
            self._error = Unclear("the client does not return from a commit")

    def ended(self, timeout_s: float) -> bool:
        if self._error:
            raise self._error
        return True


def checkpoint(setup: Setup) -> Checkpoint:
    """One answer to commit, through this sink."""
    codec = JsonCodec(Echo(), Identity("echo", "0", "", "g"), setup.clock, 10_000)
    metrics = Metrics("echo", "0", CollectorRegistry())
    committer = ImpatientCommitter(setup.clock)
    parts = CheckpointParts(setup.source, setup.sink, committer, codec, setup.clock, metrics)
    made = Checkpoint(parts, CommitPolicy(), lambda durable, seconds: None)
    one = row()
    one.settle(Rejected(Reason.INVALID, "m", "E"))
    made.add([one.alone()])
    return made


def commit_often(setup: Setup, code: int, abort: Callable[[FailingProducer], None] | None = None) -> None:
    """Twice as often as a refusal is tried again, each time refused so."""
    made = checkpoint(setup)
    for _ in range(2 * REFUSALS_MAX):
        setup.plan |= {"commit": error(code, txn_requires_abort=True), "abort": abort}
        made.commit(Deadline(setup.clock, 5.0))
        setup.clock.sleep(1.0)


@pytest.mark.parametrize("code", [KafkaError._INCONSISTENT, KafkaError.TOPIC_AUTHORIZATION_FAILED])
def test_an_answer_that_comes_after_the_commit_was_given_up_is_the_next_ones(code: int) -> None:
    setup = Setup()

    def answer_late(config: object, topics: object, timeout_s: float) -> str:
        setup.asked.append("the broker")
        setup.clock.sleep(20.0)
        return "needs WRITE on topic target"

    setup.sink._forbidden = answer_late
    with pytest.raises(Unreachable, match="needs WRITE on topic target"):
        commit_often(setup, code)
    assert setup.asked == ["the broker"]


def test_with_no_time_left_to_ask_it_is_refused_in_general_words() -> None:
    setup = Setup()

    def say_nothing(config: object, topics: object, timeout_s: float) -> str:
        setup.clock.sleep(timeout_s + 0.1)
        return ""

    setup.sink._forbidden = say_nothing
    with pytest.raises(Unreachable, match="needs WRITE on the target and the dead-letter topic"):
        commit_often(setup, KafkaError.TOPIC_AUTHORIZATION_FAILED, lambda producer: producer.clock.sleep(5.1))


def test_after_a_commit_that_went_well_the_broker_is_asked_anew() -> None:
    setup = Setup()
    setup.write()
    for times in (1, 2):
        for _ in range(2):
            setup.plan["commit"] = error(KafkaError._INCONSISTENT, txn_requires_abort=True)
            with pytest.raises(Refused):
                setup.commit()
        assert len(setup.asked) == times
        setup.commit()
        setup.write()
