"""Personal data: tagged in the schemas, and in no log, trace, metric, header, error or terminal.

Every tagged field of `tests.people` holds a canary; whatever comes out is searched for it.
"""

from __future__ import annotations

import json
import logging
import warnings
from typing import Annotated, Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field, ValidationError

from schemas import EVENTS, LeadEvent, Pii, Source, TicketEvent
from schemas.pii import MARK, tags
from streamer import app
from streamer.errors import BadConfig, Exit, Internal
from streamer.models import Model
from streamer.privacy import pii
from streamer.records import Record
from streamer.slices import Row
from streamer.telemetry import log
from streamer.telemetry.metrics import Metrics
from streamer.testing import Bench, FakeKafka, ManualClock
from streamer.testing.serving import build, published, records, run_to_end
from streamer.wire import derive, headers
from streamer.wire.codec import Identity, JsonCodec
from tests.people import CANARIES, CANARY, FAULTS, NUMBER, Indiscreet, Person, Quoting, as_json, person
from tests.slices import messages, read_by, row


class Seen:
    """A record as a consumer of confluent-kafka gives it."""

    def __init__(self, value: bytes | None, key: bytes = CANARY.encode(), read: Any = None) -> None:
        self.value, self.key, self.headers = lambda: value, lambda: key, lambda: read
        self.topic, self.partition, self.offset = lambda: "t", lambda: 0, lambda: 1
        self.timestamp = lambda: (1, 2)


def clean(text: object) -> str:
    """What was found, after it was searched."""
    said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    assert not any(canary.decode() in said for canary in CANARIES), said
    return said


pytestmark = pytest.mark.usefixtures("logs_put_back")


# The tags

PERSONAL = {
    "crm.leads.events.v1": "lead_id age job marital education default balance housing loan",
    "crm.tickets.events.v1": "customer_id text",
    "sales.invoices.events.v1": "customer_id",
    "sales.articles.daily.v1": "",
}
NOT_PERSONAL = {
    "crm.leads.events.v1": "event_id occurred_at consent contact day month campaign pdays previous poutcome",
    "crm.tickets.events.v1": "event_id occurred_at ticket_id channel language",
    "sales.invoices.events.v1": "event_id occurred_at invoice_id lines",
    "sales.articles.daily.v1": "event_id occurred_at article day pieces",
}


@pytest.mark.parametrize("event", EVENTS.values())
def test_of_every_field_it_is_decided_whether_it_is_personal(event: Any) -> None:
    tagged = {name for name, part in event.model_json_schema()["properties"].items() if part.get(MARK)}
    assert tagged == set(PERSONAL[event.topic].split())
    assert set(event.model_fields) - tagged == set(NOT_PERSONAL[event.topic].split())


class Part(BaseModel):
    secret: Annotated[str, Pii()] = ""
    open: str = ""


class Everything(BaseModel):
    plain: str = ""
    optional: Annotated[str, Pii()] | None = None
    whole: Annotated[Part | None, Pii()] = None
    part: Part | None = None
    parts: list[Part] = []
    pair: tuple[int, Annotated[int, Pii()]] = (0, 0)
    either: Part | list[Annotated[int, Pii()]] = []
    by_name: dict[str, Part] = {}
    alias: Annotated[str, Pii(), Field(alias="Anschrift")] = ""
    again: Everything | None = None


EVERYTHING = {
    "plain": "p",
    "optional": 1,
    "whole": {"secret": 2, "open": 3},
    "part": {"secret": 4, "open": "o"},
    "parts": [{"secret": 5, "open": "o"}],
    "pair": [6, 7],
    "either": [8],
    "by_name": {"x": {"secret": 9, "open": "o"}},
    "Anschrift": 10,
    "again": {"optional": 11, "plain": "p", "again": {"part": {"secret": 12}}},
}


def test_a_tag_is_found_wherever_it_stands() -> None:
    found: dict[pii.Path, Any] = {}

    def take(path: pii.Path, value: Any) -> str:
        found[path] = value
        return "-"

    changed = pii.replaced(EVERYTHING, [tags(Everything)], take)
    assert found == {
        ("optional",): 1,
        ("whole",): {"secret": 2, "open": 3},
        ("part", "secret"): 4,
        ("parts", 0, "secret"): 5,
        ("pair", 0): 6,  # of a pair no place is told apart: rather one too many
        ("pair", 1): 7,
        ("either", 0): 8,
        ("by_name", "x", "secret"): 9,
        ("Anschrift",): 10,
        ("again", "optional"): 11,
        ("again", "again", "part", "secret"): 12,
    }
    assert changed["part"] == {"secret": "-", "open": "o"}
    assert changed["plain"] == changed["again"]["plain"] == "p"
    assert EVERYTHING["optional"] == 1, "what is given stays as it is"


def test_names_are_those_of_what_is_tagged_or_holds_it() -> None:
    assert tags(Person).names() == {"name", "income", "card", "holder", "notes", "home", "contacts"}
    assert not tags(Source).anywhere()


def test_an_event_that_is_printed_shows_no_person() -> None:
    event = person()
    struct = derive.decoder(Person).known(event.model_dump_json().encode())  # type: ignore[union-attr]
    for printed in (repr(event), str(event), f"{event}", repr([event]), repr(struct), str(struct)):
        assert "account='a0'" in clean(printed)
    assert struct.name == event.name, "only what is printed is hidden"


def test_the_hot_path_still_has_its_fast_form() -> None:
    assert all(derive.derive(event) for event in (LeadEvent, TicketEvent, Person))


@pytest.mark.parametrize("changes", [{"income": CANARY}, {"name": [CANARY]}, {CANARY: 1}, {"card": CANARY}])
def test_an_error_of_an_event_quotes_nothing(changes: dict[str, Any]) -> None:
    value = json.loads(as_json(**changes))
    value.pop("event_id")
    with pytest.raises(ValidationError) as error:
        Person.model_validate(value)
    clean(error.value)


# Dead letters, predictions, traces


def decoded(value: bytes, record_headers: Any = None) -> tuple[Row, JsonCodec]:
    one = row(7, topic=Person.topic, key=b"a", value=value, headers=record_headers)
    codec = JsonCodec(Indiscreet(), Identity("indiscreet", "v1", "d", "g"), ManualClock(), 100_000)
    return read_by(codec, one), codec


def said_of(value: bytes, record_headers: Any = None) -> list[tuple[str, bytes]]:
    """The headers of the dead letter that this becomes."""
    item, codec = decoded(value, record_headers)
    assert item.outcome is not None, "it was not refused"
    [message] = messages(codec.encode(item.alone()))
    return [(name, found) for name, found in message.headers if name in headers.ERRORS]


BAD = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.just(CANARY),
    st.just([CANARY]),
    st.just({CANARY: CANARY}),
    st.just({"holder": [CANARY], "kind": CANARY}),
    st.just("!" + CANARY),
    st.just("?" + CANARY),
    st.just(CANARY * 100),
)
FIELDS = [*Person.model_fields, CANARY]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), BAD, min_size=1), st.integers(0, 40))
def test_no_header_of_a_dead_letter_quotes_the_event(changes: dict[str, Any], cut: int) -> None:
    value = as_json(**changes).encode()
    item, codec = decoded(value[: len(value) - cut] if cut else value)
    if item.outcome is not None:
        [message] = messages(codec.encode(item.alone()))
        clean([pair for pair in message.headers if pair[0] in headers.ERRORS])


@pytest.mark.parametrize(
    ("changes", "reason", "told"),
    [
        ({"name": "!" + CANARY}, b"invalid", b"name: is refused by the event's model (value_error)"),
        ({"name": "?" + CANARY}, b"invalid", b"the event's model raised LookupError"),
        ({"income": CANARY}, b"invalid", b"income: Input should be a valid integer"),
        ({"contacts": {CANARY: 1}}, b"invalid", b"contacts.*: Input should be a valid string"),
        ({"card": {"holder": CANARY, "kind": CANARY}}, b"invalid", b"card.kind: Input should be 'debit' or 'credit'"),
    ],
)
def test_a_dead_letter_says_which_field_and_not_what(changes: dict[str, Any], reason: bytes, told: bytes) -> None:
    said = dict(said_of(as_json(**changes).encode()))
    assert (said[headers.REASON], said[headers.DLQ_MESSAGE]) == (reason, told)


@pytest.mark.parametrize(
    ("trace", "goes_on"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        (b"00-" + CANARY.encode() + b"-00f067aa0ba902b7-01", False),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n" + CANARY.encode(), False),
        (CANARY.encode(), False),
        (b"", False),
    ],
)
def test_of_a_trace_nothing_but_its_ids_goes_on(trace: bytes, goes_on: bool) -> None:
    read = [("traceparent", trace), ("tracestate", CANARY.encode()), ("baggage", b"user=" + CANARY.encode())]
    item, codec = decoded(as_json().encode(), read)
    assert item.outcome is None
    item.settle(b"{}")
    [message] = messages(codec.encode(item.alone()))
    assert message.headers == ([("traceparent", trace)] if goes_on else [])
    clean(message.value)


def test_a_whole_run_shows_no_person_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug", "json")
    log.keep_out(tags(Person).names())
    script: list[Any] = [person(n, fault=fault) for n, fault in enumerate(("", "skip", *FAULTS, ""))]
    wrong = [as_json(income=CANARY), as_json(name="!" + CANARY), as_json(name="?" + CANARY), as_json()[:-9], CANARY]
    script += [text.encode() for text in wrong] + [
        Record(Person.topic, 0, len(script) + len(wrong), b"k", b"{}", [("traceparent", CANARY.encode())], 0)
    ]
    worker, clock = Indiscreet(), ManualClock()
    kafka = FakeKafka(records(script, worker.source))
    metrics = Metrics(worker.name, "v1", CollectorRegistry())
    engine = build(worker, kafka, Bench(), clock=clock, faults=iter(()), metrics=metrics, model=Model.none(worker.name))
    run_to_end(engine, kafka, clock)
    predictions, dead = published(worker, kafka.published)
    assert [prediction.event_id for prediction in predictions] == ["e0", "e9"]
    assert [prediction.answer.income for prediction in predictions] == [NUMBER, NUMBER]
    assert len(dead) == len(FAULTS) + len(wrong) + 1
    for message in kafka.published:
        original = [] if message.topic == worker.target else [("traceparent", CANARY.encode())]  # as it was read
        clean([pair for pair in message.headers if pair not in original])
        if message.topic == worker.target:
            assert str(NUMBER) in str(message.value), "the answer is the worker's, to which it gave the income"
            assert CANARY not in str(message.value)
    assert 'reason="model-error"' in clean(metrics.text())
    lines = [json.loads(line) for line in clean(capsys.readouterr().err).splitlines()]
    assert {line["reason"] for line in lines if line["event"] == "dead letters"} >= {"invalid", "model-error"}


# Logs


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    return clean(said.err)


@pytest.mark.parametrize("shape", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_no_way_to_log_an_event_shows_it(shape: log.Format, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug", shape)
    log.keep_out(tags(Person).names())
    event = person()
    record = Record(Person.topic, 0, 1, CANARY.encode(), as_json().encode(), None, 0)
    struct = derive.decoder(Person).known(event.model_dump_json().encode())  # type: ignore[union-attr]
    ours, foreign = structlog.get_logger("ours"), logging.getLogger("foreign")
    getattr(ours, level)(
        "line",
        name=event.name,
        income=event.income,
        seen=[event, {"card": event.card.holder, "deep": ({"notes": event.notes}, record)}],
        struct=struct,
        key=record.key,
        raw=record.value,
        why=ValueError(event.name),
        told=f"{event} {struct}",
    )
    getattr(foreign, level)("%s %s %s %s", event, record, record.value, ValueError(event.name))
    getattr(foreign, level)("%(one)s", {"one": record.value})
    said = logged(capsys)
    assert said.count("line") >= 1
    assert said.count("foreign") >= 2


@pytest.mark.parametrize("shape", ["json", "console"])
def test_a_stack_shows_where_and_not_what(shape: log.Format, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", shape)
    try:
        try:
            Indiscreet().encode([person(fault="encode")], [{}])
        except ValueError as error:
            error.add_note(CANARY)
            raise ExceptionGroup(CANARY, [error, quoting_error()]) from error
    except ExceptionGroup as group:
        for logger in (structlog.get_logger("ours"), logging.getLogger("foreign")):
            logger.exception("failed")
            logger.error("failed", exc_info=group)
    said = logged(capsys)
    for word in (
        "KeyError",
        "ValueError",
        "ExceptionGroup",
        "ValidationError",
        "people.py",
        "in encode",
        "value_error",
    ):
        assert said.count(word) >= 4, word


def quoting_error() -> ValidationError:
    with pytest.raises(ValidationError) as error:
        Quoting.model_validate_json(as_json(name="!" + CANARY))
    return error.value


def test_texts_of_ours_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    try:
        raise BadConfig("set this") from OSError(2, "no such file", CANARY)
    except BadConfig:
        structlog.get_logger().exception("failed")
    [line] = [json.loads(line) for line in logged(capsys).splitlines()]
    assert "BadConfig: set this" in line["exception"]
    assert "FileNotFoundError: no such file" in line["exception"]


def test_a_warning_of_pydantic_quotes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    answer = Indiscreet.answer.model_construct(length=CANARY, income=1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        answer.model_dump_json()
    assert "input_value=(not logged)" in logged(capsys)


@pytest.mark.parametrize("name", ["event", "level", "timestamp", "exception"])
def test_a_field_called_like_a_part_of_a_line_does_not_empty_the_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("info", "json")
    log.keep_out([name])
    structlog.get_logger().info("started")
    [line] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["event"] == "started"
    assert line["level"] == "info"


def test_an_unexpected_error_ends_the_process_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def run(self) -> None:
            Indiscreet().accepts(person(fault="accepts"))

    log.configure("info", "json")
    with pytest.raises(Internal) as ended:
        app.serve(Broken())  # type: ignore[arg-type]
    clean(ended.value)
    assert ended.value.__cause__ is None
    assert ended.value.__suppress_context__
    assert "in accepts" in logged(capsys)


def test_what_ends_it_on_purpose_is_told_as_it_is() -> None:
    class Leaving:
        def run(self) -> None:
            raise Exit("why")

    with pytest.raises(Exit, match="why"):
        app.serve(Leaving())  # type: ignore[arg-type]
