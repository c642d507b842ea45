"""Who is refused and why: which errors are for ever, and what is to be mended."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from streamer import rights
from streamer.errors import Unreachable
from streamer.source import KafkaSource

BROKER = "sasl_ssl://broker.example:9093/bootstrap"


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("SASL authentication error: Authentication failed during authentication due to invalid", "sasl.password"),
        (
            "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported: X",
            "set sasl.mechanisms to one of these",
        ),
        (
            "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42",
            "ssl.certificate.location",
        ),
        (
            "Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116",
            "ssl.key.location",
        ),
        ('Failed to acquire SASL OAUTHBEARER token: {"error": "invalid_client"}', "sasl.oauthbearer.client.id"),
        ("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: x", "ssl.ca.location"),
    ],
)
def test_a_refusal_says_what_to_mend(said: str, cure: str) -> None:
    told = rights.refused(f"ssl://127.0.0.1:1/bootstrap: {said} (after 3ms in state X)", {})
    assert told is not None
    assert cure in told


@pytest.mark.parametrize(
    "said",
    [
        "Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
        "Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in state UP)",
        "SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener?",
        "SASL authentication error: Local: Broker transport failure (after 1ms in state AUTH_REQ)",
        "Receive failed: error:0A000438:SSL routines::tlsv1 alert internal error: SSL alert number 80",
        "2 request(s) timed out: disconnect (average rtt 1000ms) (after 1ms in state AUTH_REQ)",
        "3/3 brokers are down",
        "Broker: Coordinator load in progress",
    ],
)
def test_a_broker_that_goes_away_is_waited_for(said: str) -> None:
    assert rights.refused(f"{BROKER}: {said}", {}) is None


class Reader:
    """A consumer that hears an error while it reads."""

    def __init__(self, config: dict[str, object], logger: object) -> None:
        self.heard, self.member, self.said = config["error_cb"], "", ""

    def consume(self, *_: object) -> list[object]:
        if self.said:
            self.heard(KafkaError(KafkaError._AUTHENTICATION, self.said))  # type: ignore[operator]
        return []

    def subscribe(self, *_: object, **__: object) -> None: ...

    def consumer_group_metadata(self) -> object:
        return object()

    def memberid(self) -> str:
        return self.member

    resume = pause = subscribe


def reader() -> tuple[KafkaSource, Reader]:
    made: list[Reader] = []

    def make(config: dict[str, object], logger: object) -> Reader:
        made.append(Reader(config, logger))
        return made[0]

    return KafkaSource({"group.id": "g"}, "events", "earliest", make_consumer=make), made[0]


def test_a_reader_that_is_not_let_in_ends() -> None:
    source, client = reader()
    client.said = f"{BROKER}: SASL authentication error: Authentication failed"
    with pytest.raises(Unreachable, match=r"cannot read events: .*sasl\.password"):
        source.poll(10, 0)


def test_a_token_server_that_is_away_ends_only_who_is_not_in_yet() -> None:
    source, client = reader()
    said = "Failed to acquire SASL OAUTHBEARER token: connection refused"
    client.member = "m"
    source.poll(10, 0)
    client.said = said
    source.poll(10, 0)
    source, client = reader()
    client.said = said
    with pytest.raises(Unreachable, match="no token"):
        source.poll(10, 0)


def test_a_broker_of_another_kind_that_names_no_rights_forbids_nothing() -> None:
    class Answer:
        authorized_operations = None

        def result(self, _: float) -> Answer:
            return self

    assert rights._allows(Answer(), "WRITE", 1)
