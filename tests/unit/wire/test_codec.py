import json

import pytest

from schemas import Prediction, UsedFeatures
from streamer.errors import Reason
from streamer.features.entities import AsOf
from streamer.features.log import FeatureLog
from streamer.records import Cached, Message, Record, Rejected, Skipped
from streamer.slices import Row, Rows, sliced
from streamer.testing import ManualClock
from streamer.wire import headers
from streamer.wire.codec import Identity, JsonCodec
from streamer.wire.reading import EventReader
from tests.echo import Echo, Pong, ping
from tests.slices import messages, row

IDENTITY = Identity("echo", "v3", "abc", "group")
GOOD = ping(1).model_dump_json().encode()


def codec(bytes_max: int = 10_000) -> JsonCodec:
    return JsonCodec(Echo(), IDENTITY, ManualClock(), bytes_max)


def read(value=GOOD, key=b"one", record_headers=None, offset=41) -> Row:
    return row(offset, 2, topic="test.pings.events.v1", key=key, value=value, headers=record_headers)


def decoded(**made) -> Row:
    one = read(**made)
    assert codec().decode(one.alone()) == []
    return one


def rejection(one: Row) -> Rejected:
    ((refused, why),) = codec().decode(one.alone())
    assert refused == one
    return why


def encoded(*settled: Row) -> list[Message]:
    return [message for one in settled for message in messages(codec().encode(one.alone()))]


def values_read(*values: bytes | None) -> Rows:
    (columns,) = sliced(Record(Echo.source, 2, at, b"one", value, None, 0) for at, value in enumerate(values))
    return columns.rows()


DEEP = b'{"event_id": "e", "occurred_at": "2026-01-01T00:00:00Z", "number": 1, "x": ' + b"[" * 4000 + b"]" * 4000 + b"}"
BROKEN = {
    "empty": (b"", Reason.NOT_JSON),
    "tombstone": (None, Reason.TOMBSTONE),
    "truncated": (GOOD[:-5], Reason.NOT_JSON),
    "0xFF": (b"\xff" * 20, Reason.NOT_JSON),
    "0xFF in a string": (GOOD.replace(b'"one"', b'"\xff\xfe"'), Reason.NOT_JSON),
    "deep": (DEEP, Reason.TOO_DEEP),
    "huge": (b" " * 20_000 + GOOD, Reason.TOO_LARGE),
    "huge integer": (GOOD.replace(b'"number":1', b'"number":' + b"9" * 5000), Reason.NOT_JSON),
    "NaN literal": (GOOD.replace(b'"number":1', b'"number":NaN'), Reason.INVALID),
    "Infinity literal": (GOOD.replace(b'"number":1', b'"number":Infinity'), Reason.INVALID),
    "lone surrogate": (GOOD.replace(b'"one"', b'"\\ud800"'), Reason.NOT_JSON),
    "number in quotes": (GOOD.replace(b'"number":1', b'"number":"1"'), Reason.INVALID),
    "float for integer": (GOOD.replace(b'"number":1', b'"number":1.5'), Reason.INVALID),
    "missing field": (b'{"event_id": "e"}', Reason.INVALID),
    "array": (b"[]", Reason.INVALID),
    "null": (b"null", Reason.INVALID),
    "no time zone": (GOOD.replace(b"00:00:00Z", b"00:00:00"), Reason.INVALID),
    "empty id": (GOOD.replace(b'"e1"', b'""'), Reason.INVALID),
    "two documents": (GOOD + GOOD, Reason.NOT_JSON),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_has_a_reason(name):
    value, reason = BROKEN[name]
    assert rejection(read(value)).reason is reason


@pytest.mark.parametrize("key", [None, b""])
def test_a_record_without_a_key_has_no_place_in_any_order(key):
    assert rejection(read(key=key)).reason is Reason.NO_KEY


def test_one_broken_record_does_not_touch_its_neighbours():
    rows = values_read(GOOD, b"x", GOOD, None, GOOD)
    assert [(one.at, why.reason) for one, why in codec().decode(rows)] == [(3, Reason.TOMBSTONE), (1, Reason.NOT_JSON)]
    assert [one.event is not None for one in rows] == [True, False, True, False, True]


def test_no_records_are_no_events():
    assert EventReader(Echo.event, 10_000).read([]) == []


def test_only_the_records_that_are_asked_for_are_read():
    rows = values_read(GOOD, b"x", GOOD)
    assert codec().decode(Rows(rows.columns, [0, 2])) == []
    assert [one.event is not None for one in rows] == [True, False, True]


@pytest.mark.parametrize(("first", "second"), [(GOOD + b",", GOOD), (GOOD[:-2], GOOD[-2:]), (GOOD + b"\n" + GOOD, b"")])
def test_records_that_would_be_json_together_are_read_one_by_one(first, second):
    rows = values_read(GOOD, first, second, GOOD)
    refused = {one.at for one, _ in codec().decode(rows)}
    assert 1 in refused
    assert refused == {at for at, value in enumerate((GOOD, first, second, GOOD)) if value != GOOD}


def test_the_error_names_the_field_and_not_its_content():
    rejected = rejection(read(GOOD.replace(b'"number":1', b'"number":"4111 1111 1111 1111"')))
    assert rejected.message.startswith("number: ")
    assert "4111" not in rejected.message


def test_duplicate_keys_are_read_as_json_readers_do_the_last_wins():
    one = decoded(value=GOOD.replace(b'"number":1', b'"number":1,"number":2'))
    assert one.event.number == 2


def test_the_envelope_is_what_the_schema_says():
    one = decoded()
    one.settle(Cached(b'{"double": 2.0}'))
    (message,) = encoded(one)
    prediction = Prediction[Pong].model_validate_json(message.value)
    said = json.loads(message.value)
    assert said.pop("produced_at") == "2026-01-01T00:00:00.000Z"
    assert prediction.model_dump(mode="json", exclude={"produced_at"}) == said
    assert {*said, "produced_at"} == set(Prediction.model_fields)
    assert (prediction.cache, prediction.key) == ("hit", "one")
    assert (prediction.source.partition, prediction.source.offset) == (2, 41)
    assert prediction.produced_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert (message.topic, message.partition, message.key) == (Echo.target, 2, b"one")


def test_the_same_record_always_gets_the_same_prediction_id():
    first, again = decoded(), decoded()
    first.settle(b"{}")
    again.settle(Cached(b"{}"))
    ids = [json.loads(message.value)["prediction_id"] for message in encoded(first, again)]
    assert ids == ["echo/test.pings.events.v1/2/41"] * 2


def test_the_trace_goes_on():
    one = decoded(record_headers=[("traceparent", b"00-ab-cd-01"), ("other", b"x")])
    one.settle(b"{}")
    (message,) = encoded(one)
    assert headers.last(message.headers, "traceparent") == b"00-ab-cd-01"
    assert headers.last(message.headers, "other") is None


def test_what_is_skipped_publishes_nothing():
    one = decoded()
    one.settle(Skipped())
    assert encoded(one) == []


def test_a_dead_letter_is_the_record_byte_for_byte_and_says_why():
    one = read(b"\xff\x00", b"\x01", [("a", b"1"), ("a", b"2"), ("empty", None)])
    one.settle(Rejected(Reason.NOT_JSON, "no JSON", "ValidationError"))
    (message,) = encoded(one)
    assert (message.topic, message.key, message.value) == ("dlq.test.pings.events.v1", b"\x01", b"\xff\x00")
    assert message.headers[:3] == [("a", b"1"), ("a", b"2"), ("empty", None)]
    said = headers.dead_letter(message.headers)
    assert (said.reason, said.message, said.worker, said.group) == ("not-json", "no JSON", "echo", "group")
    assert (said.source.topic, said.source.partition, said.source.offset) == ("test.pings.events.v1", 2, 41)
    assert said.attempts == 1


@pytest.mark.parametrize(("before", "after"), [(b"2", 3), (b"junk", 1), (b"9" * 50, 1), (b"", 1)])
def test_attempts_are_counted_across_replays(before, after):
    one = read(record_headers=[(headers.ATTEMPTS, before)])
    one.settle(Rejected(Reason.INVALID, "m", "E"))
    (message,) = encoded(one)
    assert headers.dead_letter(message.headers).attempts == after
    assert len([name for name, _ in message.headers if name == headers.ATTEMPTS]) == 1


def test_a_dead_letter_no_topic_would_take_says_where_the_record_is():
    one = read(b"x" * 9_000)
    one.settle(Rejected(Reason.INVALID, "m", "E"))
    (message,) = encoded(one)
    assert message.value is None
    assert headers.last(message.headers, headers.VALUE_BYTES) == b"9000"
    assert len(headers.last(message.headers, headers.VALUE_SHA256)) == 64
    assert headers.dead_letter(message.headers).source.offset == 41


def test_features_that_were_used_are_published_beside_their_share_of_the_predictions() -> None:
    log = FeatureLog("echo", "features.t", 0.25)
    codec = JsonCodec(Echo(), IDENTITY, ManualClock(), 10_000, features=log)
    rows = with_features(4_000)
    rows.columns.as_of[0] = None
    published = messages(codec.encode(rows))
    side = [message for message in published if message.topic == "features.t"]
    assert len(published) == 4_000 + len(side)
    assert 950 <= len(side) <= 1_050
    assert side == [message for message in messages(codec.encode(rows)) if message.topic == "features.t"]
    known = UsedFeatures.model_validate_json(side[0].value or b"")
    predictions = [Prediction[Pong].model_validate_json(one.value or b"") for one in published if one not in side]
    assert known.prediction_id in {one.prediction_id for one in predictions}
    assert known.features == {"pings_1h": 2.0}
    assert (known.features_as_of.offset, side[0].key) == (7, b"one")


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 100)])
def test_none_and_all_are_shares_too(share: float, count: int) -> None:
    log = FeatureLog("echo", "features.t", share)
    assert sum(log.of(one) is not None for one in with_features(100)) == count


def with_features(count: int) -> Rows:
    rows = values_read(*[b"{}"] * count)
    rows.columns.events = [Echo.example] * count
    for one in rows:
        one.settle(b'{"double":1.0}')
        one.give({"pings_1h": 2.0}, AsOf(7, 1_000))
    return rows


def test_outcomes_of_all_kinds_in_one_slice_keep_their_order_and_their_words() -> None:
    rows = values_read(*(ping(n).model_dump_json().encode() for n in range(4)))
    assert codec().decode(rows) == []
    first, second, third, fourth = rows
    first.settle(b'{"double":0.0}')
    second.settle(Cached(b'{"double":2.0}'))
    third.settle(Rejected(Reason.INVALID, "m", "E"))
    fourth.settle(b'{"double":6.0}')
    predictions, dead = codec().encode(rows)
    read = [Prediction[Pong].model_validate_json(one.value or b"") for one in predictions]
    assert [(one.event_id, one.source.offset, one.cache, one.answer.double) for one in read] == [
        ("e0", 0, "miss", 0.0), ("e1", 1, "hit", 2.0), ("e3", 3, "miss", 6.0),
    ]  # fmt: skip
    assert [headers.dead_letter(one.headers).source.offset for one in dead] == [2]


@pytest.mark.parametrize("text", ["plain", 'quo"te', "back\\slash", "line\nbreak", "tab\t", "\x7f", "ümlaut", "\u2028"])
def test_ids_and_keys_stand_in_the_envelope_as_json_has_them(text: str) -> None:
    value = json.dumps(ping(1).model_dump(mode="json") | {"event_id": text}).encode()
    one = decoded(value=value, key=text.encode())
    one.settle(b'{"double":1.0}')
    (message,) = encoded(one)
    said = Prediction[Pong].model_validate_json(message.value or b"")
    assert said.event_id == text
    assert said.key == text
