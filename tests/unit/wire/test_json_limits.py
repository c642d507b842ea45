"""What is valid JSON and still none of our events: too deep, too many keys, numbers that no tensor holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from schemas import Event
from streamer.errors import Reason
from streamer.records import Record, Rejected
from streamer.slices import sliced
from streamer.testing import ManualClock
from streamer.wire.codec import Identity, JsonCodec
from streamer.wire.derive import WHOLE_MAX, decoder
from streamer.wire.json_limits import DEPTH_MAX, INT_MAX, INT_MIN, KEYS_MAX, depth, outside
from tests.echo import Echo
from tests.slices import rows


class Loose(Event):
    """As little is said of its fields as can be."""

    number: int = 0
    half: float | None = None
    by_name: dict[str, int] = Field(default_factory=dict)
    parts: list[list[int]] = []


class Checked(Loose):
    """The same, read by pydantic alone."""

    @field_validator("number")
    @classmethod
    def _any(cls, number: int) -> int:
        return number


class Reads(Echo):
    event = Loose  # type: ignore[assignment]


class ReadsChecked(Echo):
    event = Checked  # type: ignore[assignment]


CODECS = [
    JsonCodec(worker, Identity("echo", "v1", "", "g"), ManualClock(), 1_000_000) for worker in (Reads(), ReadsChecked())
]
HEAD = '{"event_id":"e","occurred_at":"2026-01-01T00:00:00Z"'


def outcome(rest: str) -> Rejected | None:
    """Why an event with these further fields is refused. Both ways of reading it must agree."""
    found: list[Any] = []
    for codec in CODECS:
        read = rows(0, value=(HEAD + rest + "}").encode())
        refused = codec.decode(read)
        assert (read.columns.events[0] is None) == bool(refused)
        found.append(refused[0][1] if refused else None)
    assert found[0] == found[1]
    return found[0]


def nested(levels: int) -> str:
    """An unknown field, so that the whole is `levels` deep."""
    return ',"x":' + "[" * (levels - 1) + "]" * (levels - 1)


def test_one_is_read_by_struct_and_one_by_pydantic() -> None:
    assert decoder(Loose)
    assert decoder(Checked) is None


@pytest.mark.parametrize("filler", ["", "x" * 1_000, "ü", "x" * WHOLE_MAX, "[" * 40, '\\"[{', "\\\\"])
def test_it_may_be_32_deep_and_no_more_however_long(filler: str) -> None:
    said = f',"y":"{filler}"'
    assert outcome(said + nested(DEPTH_MAX)) is None
    for levels in (DEPTH_MAX + 1, 150, 201, 5_000):
        rejected = outcome(said + nested(levels))
        assert rejected
        assert rejected.reason is Reason.TOO_DEEP, levels
    assert outcome(said + ',"x":' + '{"a":' * (DEPTH_MAX - 1) + "1" + "}" * (DEPTH_MAX - 1)) is None
    assert outcome(said + ',"x":' + '{"a":' * DEPTH_MAX + "1" + "}" * DEPTH_MAX).reason is Reason.TOO_DEEP  # type: ignore[union-attr]


@pytest.mark.parametrize("around", [0, 30, 200])
def test_a_deep_one_is_found_among_shallow_ones(around: int) -> None:
    rests = [',"parts":[[1]]'] * around + [nested(DEPTH_MAX + 1), nested(DEPTH_MAX)] + ["", ',"parts":[[1]]'] * around
    for codec in CODECS:
        (columns,) = sliced(
            Record("t", 0, at, b"k", (HEAD + rest + "}").encode(), None, 0) for at, rest in enumerate(rests)
        )
        refused = [(row.offset, rejected.reason) for row, rejected in codec.decode(columns.rows())]
        assert refused == [(around, Reason.TOO_DEEP)]
        assert [at for at, event in enumerate(columns.events) if event is None] == [around]


def test_many_shallow_lists_are_not_deep() -> None:
    assert outcome(',"parts":' + json.dumps([[1]] * 500)) is None
    assert outcome(',"parts":' + json.dumps([[1]] * 5_000)) is None


def test_it_may_have_ten_thousand_keys_and_no_more_wherever_they_are() -> None:
    def keys(count: int) -> str:
        return ',"x":[' + ",".join('{"a:b":1}' for _ in range(count - 3)) + "]"

    assert outcome(keys(KEYS_MAX)) is None
    rejected = outcome(keys(KEYS_MAX + 1))
    assert rejected == Rejected(Reason.TOO_MANY_KEYS, "the JSON has 10001 keys, more than 10000", "Reject")
    assert outcome(',"y":"' + ":" * 20_000 + '"') is None


@pytest.mark.parametrize("place", [',"number":%d', ',"by_name":{"a":%d}', ',"parts":[[1],[%d]]'])
def test_an_integer_takes_64_bits_and_no_more(place: str) -> None:
    for fits in (INT_MIN, INT_MAX):
        assert outcome(place % fits) is None
    for too_large in (INT_MIN - 1, INT_MAX + 1, 2**64 - 1, 2**64, 10**300):
        rejected = outcome(place % too_large)
        assert rejected == Rejected(Reason.INVALID, "an integer takes more than 64 bits", "Reject"), too_large


def test_a_large_number_where_none_is_counted_is_no_matter() -> None:
    assert outcome(f',"half":{10**30}') is None  # a float holds it
    assert outcome(f',"unknown":{10**30}') is None  # nobody reads it


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_no_json_not_even_where_nobody_looks(word: str) -> None:
    assert outcome(f',"x":{word}').reason is Reason.NOT_JSON  # type: ignore[union-attr]
    assert outcome(f',"half":{word}').reason is Reason.INVALID  # type: ignore[union-attr]
    assert outcome(f',"x":"{word}"') is None
    assert outcome(f',"x":"\\\\",{json.dumps(word)}:1') is None


def test_of_equal_keys_the_last_counts() -> None:
    for codec in CODECS:
        read = rows(0, value=(HEAD + ',"number":1,"number":2}').encode())
        assert codec.decode(read) == []
        assert read.columns.events[0].number == 2
    assert outcome(',"number":"no","number":2') is None
    assert outcome(',"number":2,"number":"no"').reason is Reason.INVALID  # type: ignore[union-attr]


def slow_depth(value: Any) -> int:
    parts = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(slow_depth, parts), default=0) if isinstance(parts, list) else 0


words = st.text('ab\\"[]{}:,\n\u2028ü', max_size=6)
texts = st.recursive(
    words | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
)


@settings(max_examples=500, deadline=None)
@given(value=texts, ascii_only=st.booleans())
def test_depth_and_keys_are_those_that_python_sees(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    keys = 0

    def count(pairs: list[tuple[str, Any]]) -> None:
        nonlocal keys
        keys += len(pairs)

    json.loads(text, object_pairs_hook=count)
    assert depth(text) == slow_depth(value)
    assert outside(text).count(b":") == keys
