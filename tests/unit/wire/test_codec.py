import json

import pytest

from schemas import Prediction, UsedFeatures
from streamer.errors import Reason
from streamer.features.entities import AsOf
from streamer.features.log import FeatureLog
from streamer.records import Item, Lane, Predicted, Record, Rejected, Skipped
from streamer.testing import ManualClock
from streamer.wire import headers
from streamer.wire.codec import Identity, JsonCodec
from tests.echo import Echo, Pong, ping

IDENTITY = Identity("echo", "v3", "abc", "group")
GOOD = ping(1).model_dump_json().encode()


def codec(bytes_max: int = 10_000) -> JsonCodec:
    return JsonCodec(Echo(), IDENTITY, ManualClock(), bytes_max)


def item(value=GOOD, key=b"one", record_headers=None, offset=41) -> Item:
    return Item(Record("test.pings.events.v1", 2, offset, key, value, record_headers, 0), Lane(2))


def decoded(**made) -> Item:
    one = item(**made)
    assert codec().decode_many([one]) == []
    return one


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
    ((_, rejected),) = codec().decode_many([item(value)])
    assert rejected is not None
    assert rejected.reason is reason


@pytest.mark.parametrize("key", [None, b""])
def test_a_record_without_a_key_has_no_place_in_any_order(key):
    ((_, rejected),) = codec().decode_many([item(key=key)])
    assert rejected.reason is Reason.NO_KEY


def test_one_broken_record_does_not_touch_its_neighbours():
    items = [item(), item(b"x"), item()]
    assert [item for item, _ in codec().decode_many(items)] == [items[1]]
    assert [one.event is not None for one in items] == [True, False, True]


def test_the_error_names_the_field_and_not_its_content():
    ((_, rejected),) = codec().decode_many([item(GOOD.replace(b'"number":1', b'"number":"4111 1111 1111 1111"'))])
    assert rejected.message.startswith("number: ")
    assert "4111" not in rejected.message


def test_duplicate_keys_are_read_as_json_readers_do_the_last_wins():
    one = decoded(value=GOOD.replace(b'"number":1', b'"number":1,"number":2'))
    assert one.event.number == 2


def test_the_envelope_is_what_the_schema_says():
    one = decoded()
    one.outcome = Predicted(b'{"double": 2.0}', cached=True)
    (message,) = codec().encode_many([one])
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
    first.outcome, again.outcome = Predicted(b"{}", cached=False), Predicted(b"{}", cached=True)
    ids = [json.loads(message.value)["prediction_id"] for message in codec().encode_many([first, again])]
    assert ids == ["echo/test.pings.events.v1/2/41"] * 2


def test_the_trace_goes_on():
    one = decoded(record_headers=[("traceparent", b"00-ab-cd-01"), ("other", b"x")])
    one.outcome = Predicted(b"{}", cached=False)
    (message,) = codec().encode_many([one])
    assert headers.last(message.headers, "traceparent") == b"00-ab-cd-01"
    assert headers.last(message.headers, "other") is None


def test_what_is_skipped_publishes_nothing():
    one = decoded()
    one.outcome = Skipped()
    assert codec().encode_many([one]) == []


def test_a_dead_letter_is_the_record_byte_for_byte_and_says_why():
    one = item(b"\xff\x00", b"\x01", [("a", b"1"), ("a", b"2"), ("empty", None)])
    one.outcome = Rejected(Reason.NOT_JSON, "no JSON", "ValidationError")
    (message,) = codec().encode_many([one])
    assert (message.topic, message.key, message.value) == ("dlq.test.pings.events.v1", b"\x01", b"\xff\x00")
    assert message.headers[:3] == [("a", b"1"), ("a", b"2"), ("empty", None)]
    said = headers.dead_letter(message.headers)
    assert (said.reason, said.message, said.worker, said.group) == ("not-json", "no JSON", "echo", "group")
    assert (said.source.topic, said.source.partition, said.source.offset) == ("test.pings.events.v1", 2, 41)
    assert said.attempts == 1


@pytest.mark.parametrize(("before", "after"), [(b"2", 3), (b"junk", 1), (b"9" * 50, 1), (b"", 1)])
def test_attempts_are_counted_across_replays(before, after):
    one = item(record_headers=[(headers.ATTEMPTS, before)])
    one.outcome = Rejected(Reason.INVALID, "m", "E")
    (message,) = codec().encode_many([one])
    assert headers.dead_letter(message.headers).attempts == after
    assert len([name for name, _ in message.headers if name == headers.ATTEMPTS]) == 1


def test_a_dead_letter_no_topic_would_take_says_where_the_record_is():
    one = item(b"x" * 9_000)
    one.outcome = Rejected(Reason.INVALID, "m", "E")
    (message,) = codec().encode_many([one])
    assert message.value is None
    assert headers.last(message.headers, headers.VALUE_BYTES) == b"9000"
    assert len(headers.last(message.headers, headers.VALUE_SHA256)) == 64
    assert headers.dead_letter(message.headers).source.offset == 41


def test_features_that_were_used_are_published_beside_their_share_of_the_predictions() -> None:
    log = FeatureLog("echo", "features.t", 0.25)
    codec = JsonCodec(Echo(), IDENTITY, ManualClock(), 10_000, features=log)
    items = [item(b"{}", offset=offset) for offset in range(4_000)]
    for one in items:
        one.event = Echo.example
        one.outcome = Predicted(b'{"double":1.0}', False)
        one.features, one.as_of = {"pings_1h": 2.0}, AsOf(7, 1_000)
    items[0].as_of = None
    messages = codec.encode_many(items)
    side = [message for message in messages if message.topic == "features.t"]
    assert len(messages) == 4_000 + len(side)
    assert 950 <= len(side) <= 1_050
    assert side == [message for message in codec.encode_many(items) if message.topic == "features.t"]
    known = UsedFeatures.model_validate_json(side[0].value or b"")
    beside = messages[messages.index(side[0]) - 1]
    assert known.prediction_id == Prediction[Pong].model_validate_json(beside.value or b"").prediction_id
    assert known.features == {"pings_1h": 2.0}
    assert (known.features_as_of.offset, side[0].key) == (7, items[0].record.key)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 100)])
def test_none_and_all_are_shares_too(share: float, count: int) -> None:
    log = FeatureLog("echo", "features.t", share)
    found = [item(b"{}", offset=offset) for offset in range(100)]
    for one in found:
        one.event, one.as_of = Echo.example, AsOf(-1, -1)
    assert sum(len(log.of(one)) for one in found) == count
