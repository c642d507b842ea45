"""What only a person can mend is refused by name, and never tried for ever."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from streamer.clock import Deadline
from streamer.errors import Aborted, Refused, Unreachable
from tests.unit.test_sink import FailingProducer, Setup, error


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
