"""Encrypted personal data: what is sealed opens again where it belongs, and nowhere else; whatever is done to it, the
record becomes a dead letter."""

from __future__ import annotations

import base64
import json
import os
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas import EVENTS, Event, Pii, TicketEvent
from schemas.pii import MARK
from streamer.cli import replay
from streamer.errors import Reason, Reject
from streamer.privacy import encryption
from streamer.privacy.encryption import PREFIX, WORD, Cipher, Keyring
from streamer.records import Message, Rejected
from streamer.slices import Row
from streamer.testing import ManualClock
from streamer.wire import headers
from streamer.wire.codec import Identity, JsonCodec
from tests.people import CANARIES, CANARY, Indiscreet, Person, as_json, person
from tests.slices import messages, read_by, row
from tests.unit.privacy.test_pii import Seen

OLD, NEW = bytes(32), bytes(range(32))
RING = Keyring("new", {"new": NEW, "old": OLD})
BYTES_MAX = 100_000


def cipher(keyring: Keyring = RING, event: type[Event] = Person, topic: str = Person.topic) -> Cipher:
    return Cipher(keyring, event, topic)


PEOPLE = Cipher(RING, Indiscreet.event, Person.topic)


def codec(of: Cipher | None = PEOPLE) -> JsonCodec:
    return JsonCodec(Indiscreet(), Identity("indiscreet", "v1", "d", "g"), ManualClock(), BYTES_MAX, of)


def decoded(value: bytes | None, of: Cipher | None = PEOPLE, read: Any = None) -> Row:
    one = row(7, topic=Person.topic, key=b"a", value=value, headers=read)
    return read_by(codec(of), one)


def dead_letter(one: Row, of: Cipher | None = PEOPLE) -> Message:
    if one.outcome is None:
        one.settle(Rejected(Reason.MODEL_ERROR, "m", "E"))
    [message] = messages(codec(of).encode(one.alone()))
    return message


def refused(value: bytes, of: Cipher | None = PEOPLE) -> str:
    """Why a record is not decrypted, when its dead letter neither says nor holds anything of it."""
    item = decoded(value, of)
    assert isinstance(item.outcome, Rejected), "it was read"
    assert item.outcome.reason is Reason.NOT_DECRYPTED, item.outcome
    message = dead_letter(item, of)
    assert not any(canary in part for canary in CANARIES for _, part in message.headers)
    return item.outcome.message


SEALED = PEOPLE.seal_fields(as_json().encode())


# What is sealed


def test_a_sealed_event_holds_no_person_and_opens_to_what_it_was() -> None:
    assert not any(canary in SEALED for canary in CANARIES)
    assert json.loads(SEALED)["account"] == "a0"
    assert json.loads(PEOPLE.open(SEALED)) == json.loads(as_json())
    event = decoded(SEALED).event
    assert (event.name, event.income, event.home) == (person().name, person().income, person().home)


def test_every_tagged_value_is_sealed_by_itself_in_the_documented_form() -> None:
    event = json.loads(SEALED)
    sealed = [event["name"], event["income"], event["card"]["holder"], *event["notes"], event["home"]]
    sealed.append(event["contacts"]["mother"])
    for one in sealed:
        assert set(one) == {WORD}
        version, number, key_id, text = one[WORD].split(":")
        assert (version, number, key_id) == ("enc", "1", "new")
        assert len(base64.b64decode(text, validate=True)) > 28
    assert event["card"]["kind"] == "credit"


def test_equal_values_never_look_equal() -> None:
    assert len({PEOPLE.seal_fields(as_json().encode()) for _ in range(100)}) == 100
    assert len({PEOPLE.seal(b"x") for _ in range(100)}) == 100


class Anything(Event):
    topic: ClassVar[str] = "test.anything.events.v1"
    one: Annotated[Any, Pii()]
    many: list[Annotated[Any, Pii()]]
    named: dict[str, Annotated[Any, Pii()]]
    plain: Any


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, st.lists(JSON, max_size=3), st.dictionaries(st.text(), JSON, max_size=3), JSON)
def test_any_json_comes_back(one: Any, many: list[Any], named: dict[str, Any], plain: Any) -> None:
    value = json.dumps({"one": one, "many": many, "named": named, "plain": plain}).encode()
    of = cipher(event=Anything)
    assert json.loads(of.open(of.seal_fields(value))) == json.loads(value)


@settings(deadline=None)
@given(st.binary())
def test_any_record_comes_back_whole(value: bytes) -> None:
    sealed = PEOPLE.seal(value)
    assert sealed.startswith(b"enc:1:new:")
    assert PEOPLE._open_whole(sealed) == value


@settings(deadline=None)
@given(st.sampled_from(list(EVENTS.values())), st.data())
def test_our_own_events_come_back(event: type[Event], data: st.DataObject) -> None:
    text = data.draw(st.text(min_size=1, max_size=100))
    ticket = TicketEvent(event_id="e", occurred_at=person().occurred_at, ticket_id="t", customer_id="c", text=text)
    of = cipher(event=TicketEvent, topic=TicketEvent.topic)
    value = ticket.model_dump_json().encode()
    assert TicketEvent.model_validate_json(of.open(of.seal_fields(value))) == ticket
    assert event.topic


def test_plain_and_sealed_records_come_mixed() -> None:
    mixed = {**json.loads(SEALED), "name": person().name}
    assert decoded(json.dumps(mixed).encode()).event.name == person().name
    assert decoded(as_json().encode()).event.model_dump() == person().model_dump()


@settings(deadline=None)
@given(st.text())
def test_no_text_of_a_customer_passes_for_a_sealed_one(text: str) -> None:
    for name in (text, PREFIX + text, f'{{"{WORD}":"{PREFIX}{text}"}}', json.dumps({WORD: PREFIX + text})):
        if len(name) <= 200 and name[:1] not in ("!", "?"):
            event = decoded(as_json(name=name).encode()).event
            assert event is not None
            assert event.name == name


# Rotation


def test_an_older_key_still_opens_and_the_active_one_seals() -> None:
    before = cipher(Keyring("old", {"old": OLD}), Indiscreet.event)
    value = before.seal_fields(as_json().encode())
    assert decoded(value).event.name == person().name
    assert b"enc:1:old:" in value
    assert b"enc:1:old:" not in PEOPLE.seal_fields(as_json().encode())


def test_a_key_that_is_gone_is_told_as_such() -> None:
    after = Cipher(Keyring("newest", {"newest": os.urandom(32)}), Indiscreet.event, Person.topic)
    assert refused(SEALED, after).startswith("name: its key is not in the keyring")


def test_another_key_of_the_same_id_opens_nothing() -> None:
    other = Cipher(Keyring("new", {"new": os.urandom(32)}), Indiscreet.event, Person.topic)
    assert "another key of this id" in refused(SEALED, other)
    assert "another key of this id" in refused(PEOPLE.seal(SEALED), other)


# Tampering


def test_every_changed_bit_of_a_field_is_found() -> None:
    event = json.loads(SEALED)
    head, _, text = event["name"][WORD].rpartition(":")
    sealed = base64.b64decode(text)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1 << (at % 8)
        event["name"] = {WORD: f"{head}:{base64.b64encode(changed).decode()}"}
        assert refused(json.dumps(event).encode()).startswith("name: it was changed")


def test_every_changed_byte_of_a_whole_record_is_found() -> None:
    sealed = PEOPLE.seal(b"{}")
    for at in range(len(PREFIX), len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 0x41
        refused(bytes(changed))


@pytest.mark.parametrize("keep", [0, 1, 11, 12, 20, 27, 28, -1, -4])
def test_a_field_that_was_cut_is_found(keep: int) -> None:
    event = json.loads(SEALED)
    head, _, text = event["name"][WORD].rpartition(":")
    event["name"] = {WORD: f"{head}:{base64.b64encode(base64.b64decode(text)[:keep]).decode()}"}
    refused(json.dumps(event).encode())


@pytest.mark.parametrize(
    "text",
    ["", ":", "new", "new:", "new:!", "new:AAA", ":AAAA", "new:AAAA:AAAA", "\x00:AAAA", "é:AAAA", f"{CANARY}:AA=="],
)
def test_a_field_of_another_form_is_found(text: str) -> None:
    refused(json.dumps({**json.loads(SEALED), "name": {WORD: PREFIX + text}}).encode())


def swapped(*changes: tuple[list[Any], list[Any]]) -> bytes:
    """The sealed event with the value of one place in another."""
    event = json.loads(SEALED)
    for (*way, last), source in changes:
        place: Any = event
        for step in way:
            place = place[step]
        value: Any = json.loads(SEALED)
        for step in source:
            value = value[step]
        place[last] = value
    return json.dumps(event).encode()


@pytest.mark.parametrize(
    ("to", "of"),
    [
        (["name"], ["card", "holder"]),
        (["card", "holder"], ["name"]),
        (["notes", 0], ["notes", 1]),
        (["contacts", "father"], ["contacts", "mother"]),
        (["home"], ["name"]),
        (["income"], ["name"]),
    ],
)
def test_a_value_that_was_moved_to_another_field_is_found(to: list[Any], of: list[Any]) -> None:
    where = ".".join(str(part) for part in to).replace("father", "*")  # the key of a mapping is the producer's text
    assert refused(swapped((to, of))).startswith(f"{where}: it was changed")


def test_a_value_in_a_field_that_is_not_tagged_is_found() -> None:
    assert "not tagged" in refused(swapped((["account"], ["name"])))


@pytest.mark.parametrize(
    "elsewhere",
    [
        Cipher(RING, Indiscreet.event, "test.people.events.v2"),
        Cipher(RING, Person, Person.topic),
    ],
    ids=["topic", "class"],
)
def test_a_record_of_another_topic_or_class_is_found(elsewhere: Cipher) -> None:
    assert "encrypted for another place" in refused(elsewhere.seal_fields(as_json().encode()))
    assert "encrypted for another place" in refused(elsewhere.seal(as_json().encode()))


def test_a_place_cannot_be_written_in_two_ways() -> None:
    """`a|b` and `a`, `b` are different places, whatever the names hold."""

    class B(Event):
        topic: ClassVar[str] = "t"
        x: Annotated[str, Pii()]

    places = {
        Cipher(RING, B, topic)._where(path) for topic in ("t", "t|B") for path in (("x",), ("x", "y"), ("x.y",), None)
    }
    assert len(places) == 8


ENVELOPES = st.fixed_dictionaries({WORD: st.one_of(st.text(), st.text().map(PREFIX.__add__), st.integers(), st.none())})


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([*Person.model_fields, CANARY]), JSON | ENVELOPES), st.sampled_from([PEOPLE, None])
)
def test_whatever_is_in_a_record_it_is_read_or_refused(changes: dict[str, Any], of: Cipher | None) -> None:
    item = decoded(json.dumps({**json.loads(SEALED), **changes}).encode(), of)
    assert (item.event is None) == isinstance(item.outcome, Rejected)
    if of is None:
        assert item.event is None or WORD not in str(item.event.name)


@settings(deadline=None)
@given(st.binary(), st.sampled_from([b"", b"enc:1:", b"enc:1:new:", b'{"name":{"enc":"enc:1:']))
def test_whatever_a_record_is_it_is_refused(value: bytes, head: bytes) -> None:
    assert isinstance(decoded(head + value).outcome, Rejected)


@pytest.mark.parametrize(
    "value",
    [
        b'{"a":"enc:1:"' + b"[" * 100_000,
        b'{"again":' * 900 + b'"enc:1:"' + b"}" * 900,
        SEALED.replace(b'"enc:1:', b'"\\u0065nc:1:'),
        b"\xef\xbb\xbf" + SEALED,
        SEALED.decode().encode("utf-16"),
        SEALED.replace(b'"a0"', b'"\xff"'),
        SEALED.replace(b'"a0"', b"9" * 5000),
    ],
)
def test_odd_json_is_refused_and_crashes_nothing(value: bytes) -> None:
    assert isinstance(decoded(value).outcome, Rejected)


def test_the_keys_themselves_refuse_what_is_no_seal() -> None:
    for sealed in (b"", b"x", bytes(27), bytes(28)):
        with pytest.raises(Reject):
            RING.open("new", sealed, b"")


# Without keys


def test_without_keys_a_sealed_record_is_no_prediction_but_a_cure() -> None:
    assert refused(SEALED, None) == "it is encrypted: set encryption.keys_file"
    assert refused(PEOPLE.seal(as_json().encode()), None) == "it is encrypted: set encryption.keys_file"


@pytest.mark.parametrize("event", EVENTS.values())
def test_without_keys_none_of_our_events_takes_a_sealed_value_for_a_plain_one(event: type[BaseModel]) -> None:
    for name, part in event.model_json_schema()["properties"].items():
        if part.get(MARK):
            with pytest.raises(ValueError, match=name):
                event.model_validate_json(json.dumps({name: {WORD: PREFIX + "new:AAAA"}}))


def test_without_keys_the_path_of_an_event_does_not_look_for_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "holds_sealed", None)
    plain = codec(None)
    assert plain.decode(row(7, topic=Person.topic, key=b"a", value=as_json().encode()).alone()) == []
    assert plain._reader._validate == Indiscreet.event.__pydantic_validator__.validate_json, (
        "nothing is wrapped around it"
    )


# Dead letters, and back


@pytest.mark.parametrize(
    "value", [as_json().encode(), SEALED, as_json()[:-7].encode(), f'{{"eman": "{CANARY}"}}'.encode(), CANARY.encode()]
)
def test_a_dead_letter_holds_no_person_and_comes_back_as_it_was(value: bytes) -> None:
    item = decoded(value)
    message = dead_letter(item)
    assert message.value is not None
    assert not any(canary in message.value for canary in CANARIES)
    back = replay.back(Seen(message.value, read=message.headers), headers.dead_letter(message.headers))
    again = decoded(back.value, read=back.headers)
    assert again.event == item.event
    assert PEOPLE.open(message.value) == PEOPLE.open(value)
    assert dead_letter(again).value == message.value, "what is sealed is not sealed again"
    assert headers.dead_letter(dead_letter(again).headers).attempts == 2


def test_a_dead_letter_whose_key_is_missing_is_replayed_when_it_is_back() -> None:
    sealed = dead_letter(decoded(SEALED)).value
    lost = Cipher(Keyring("newest", {"newest": os.urandom(32)}), Indiscreet.event, Person.topic)
    item = decoded(sealed, lost)
    assert isinstance(item.outcome, Rejected)
    twice = dead_letter(item, lost).value
    assert twice is not None
    assert twice != sealed
    lost._keyring._keys["new"] = RING._keys["new"]
    assert decoded(twice, lost).event.name == person().name


def test_a_record_without_value_has_no_sealed_one() -> None:
    assert dead_letter(decoded(None)).value is None


def test_a_value_too_large_for_a_dead_letter_is_known_by_its_own_digest() -> None:
    value = b"x" * (BYTES_MAX - 10)
    message = dead_letter(decoded(value))
    assert message.value is None
    assert headers.last(message.headers, headers.VALUE_BYTES) == str(len(value)).encode()
    plain = dead_letter(decoded(value, None), None)
    digests = {headers.last(one.headers, headers.VALUE_SHA256) for one in (message, plain)}
    assert len(digests) == 1


def test_a_sealed_dead_letter_is_within_the_limit_of_a_record() -> None:
    longest = json.dumps({"x": "y" * (BYTES_MAX - 2_048 - 11)}).encode()
    message = dead_letter(decoded(longest))
    assert message.value is not None
    assert len(message.value) <= BYTES_MAX
