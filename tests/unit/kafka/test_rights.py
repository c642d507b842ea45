"""Who is refused and why: which errors are for ever, and what is to be mended."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from streamer.errors import Unreachable
from streamer.kafka import rights
from streamer.kafka.source import KafkaSource
from streamer.testing import ManualClock

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
        self.messages: list[object] = []
        self.answers = True
        self.asked = 0

    def consume(self, *_: object) -> list[object]:
        if self.said:
            self.heard(KafkaError(KafkaError._AUTHENTICATION, self.said))  # type: ignore[operator]
        read, self.messages = self.messages, []
        return read

    def list_topics(self, topic: str, timeout: float) -> None:
        self.asked += 1
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def subscribe(self, *_: object, **__: object) -> None: ...

    def consumer_group_metadata(self) -> object:
        return object()

    def memberid(self) -> str:
        return self.member

    resume = pause = subscribe


def reader(clock: ManualClock | None = None) -> tuple[KafkaSource, Reader]:
    made: list[Reader] = []

    def make(config: dict[str, object], logger: object) -> Reader:
        made.append(Reader(config, logger))
        return made[0]

    return KafkaSource({"group.id": "g"}, "events", "earliest", clock, make), made[0]


def test_a_reader_that_is_not_let_in_ends() -> None:
    source, client = reader()
    client.said = f"{BROKER}: SASL authentication error: Authentication failed"
    with pytest.raises(Unreachable, match=r"cannot read events: .*sasl\.password"):
        source.poll(10, 0)


def member(clock: ManualClock) -> tuple[KafkaSource, Reader]:
    source, client = reader(clock)
    client.member = "m"
    source._positions[0] = 0
    source.poll(10, 0)
    client.said = REFUSED[0]
    return source, client


def poll_for(source: KafkaSource, clock: ManualClock, seconds: int) -> None:
    for _ in range(seconds):
        source.poll(10, 0)
        clock.sleep(1)


REFUSED = [
    f"{BROKER}: SASL authentication error: Authentication failed",
    "ssl://127.0.0.1:1/3: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: x",
]


@pytest.mark.parametrize("said", REFUSED)
def test_one_broker_that_refuses_a_member_does_not_end_it_while_any_other_answers(said: str) -> None:
    """As one broker of three with an expired certificate; nothing comes in, as the topic is idle."""
    clock = ManualClock()
    source, client = member(clock)
    client.said = said
    with capture_logs() as logs:
        poll_for(source, clock, 100)
    assert {line["event"] for line in logs} == {"a broker does not let us in; going on with the others"}
    assert 10 < client.asked <= 20, "now and then"


def test_a_member_that_no_broker_lets_in_any_more_ends_and_says_why() -> None:
    clock = ManualClock()
    source, client = member(clock)
    client.answers = False
    poll_for(source, clock, 10)
    with pytest.raises(Unreachable, match=r"cannot read events: .*sasl\.password"):
        source.poll(10, 0)


def test_a_member_that_reads_goes_on_and_asks_nobody() -> None:
    clock = ManualClock()
    source, client = member(clock)
    client.answers = False
    source._positions[0] = 0
    for offset in range(60):
        client.messages = [Read(offset)]
        assert len(source.poll(1, 0)) == 1
        clock.sleep(1)
    assert client.asked == 0


def test_an_outage_after_a_refusal_that_was_mended_is_waited_for() -> None:
    clock = ManualClock()
    source, client = member(clock)
    source.poll(10, 0)
    client.said = ""
    poll_for(source, clock, 60)
    client.answers = False
    poll_for(source, clock, 300)
    assert client.asked < 12


def test_an_outage_soon_after_a_refusal_that_was_mended_is_waited_for() -> None:
    """The refusal still stands when the outage begins, but records have come since."""
    clock = ManualClock()
    source, client = member(clock)
    source.poll(10, 0)
    client.said = ""
    for offset in range(20):
        client.messages = [Read(offset)]
        poll_for(source, clock, 1)
    client.answers = False
    poll_for(source, clock, 300)


def test_an_outage_before_a_refusal_is_not_held_against_it() -> None:
    """All brokers come back, and the first that does is the one that refuses."""
    clock = ManualClock()
    source, client = member(clock)
    refusal, client.said = client.said, ""
    poll_for(source, clock, 100)
    client.said = refusal
    client.answers = False
    poll_for(source, clock, 9)
    client.answers = True
    poll_for(source, clock, 100)


class Read:
    """A record."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def offset(self) -> int:
        return self._offset

    def partition(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def nothing(self) -> None:
        """It has none."""

    error = headers = key = value = nothing


def test_with_the_newer_protocol_only_partitions_show_that_it_was_let_in() -> None:
    """Its client makes a member id by itself, before anybody has been asked."""
    for partitions in ([], [0]):
        made: list[Reader] = []

        def make(config: dict[str, object], logger: object, made: list[Reader] = made) -> Reader:
            made.append(Reader(config, logger))
            return made[0]

        source = KafkaSource({"group.id": "g", "group.protocol": "consumer"}, "events", "earliest", None, make)
        made[0].member = "m"
        source._positions |= dict.fromkeys(partitions, 0)
        source.poll(10, 0)
        made[0].said = f"{BROKER}: SASL authentication error: Authentication failed"
        if partitions:
            source.poll(10, 0)
        else:
            with pytest.raises(Unreachable):
                source.poll(10, 0)


def test_a_client_that_closes_and_has_no_membership_any_more_is_believed_as_it_was() -> None:
    source, client = reader()
    client.member = "m"
    source.poll(10, 0)
    known = source.group()

    def closed() -> object:
        raise RuntimeError

    client.consumer_group_metadata = closed  # type: ignore[method-assign]
    source._capture_group()
    assert source.group() is known


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
