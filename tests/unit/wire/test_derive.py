"""A derived type never accepts what pydantic refuses, and reads what it accepts as pydantic does."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, computed_field, field_validator

from schemas import Event, LeadEvent, LeadScore, TicketEvent, TicketRoute
from streamer.device.runner import Answers
from streamer.wire.derive import WHOLE_MAX, Derived, as_model, decoder, derive
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting


class Part(BaseModel):
    name: str
    weight: Annotated[float, Field(gt=0, lt=10)] = 1.0


class Everything(Event):
    """Every kind of field that can be derived."""

    number: int = 0
    small: Annotated[int, Field(ge=-5, le=5)] = 0
    ratio: float = 0.5
    flag: bool = False
    word: Annotated[str, StringConstraints(min_length=1, max_length=4)] = "a"
    code: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")] = "en"
    choice: Literal["a", "b"] | None = None
    level: Literal[1, 2] = 1
    when: AwareDatetime | None = None
    sixteen: Annotated[list[float], Field(max_length=3)] = []
    pair: tuple[int, str] = (1, "x")
    many: tuple[int, ...] = ()
    by_name: dict[str, int] = Field(default_factory=dict)
    part: Part = Part(name="p")
    parts: list[Part] = []
    kind: ClassVar[str] = "all"

    @property
    def key(self) -> str:
        return f"{self.word}-{self.number}"

    def doubled(self, times: int = 2) -> int:
        return self.number * times

    def upper(self) -> str:
        return super().key.upper()


GOOD: dict[str, Any] = {
    "event_id": "e",
    "occurred_at": "2026-01-01T10:00:00Z",
    "number": 3,
    "small": -5,
    "ratio": 1e-7,
    "flag": True,
    "word": "ab",
    "code": "de",
    "choice": "b",
    "level": 2,
    "when": "2026-01-01T10:00:00.123456+02:00",
    "sixteen": [1, 2.5],
    "pair": [5, "y"],
    "many": [1, 2],
    "by_name": {"x": 1},
    "part": {"name": "q", "weight": 2},
    "parts": [{"name": "r"}],
}
reads = decoder(Everything)
assert reads is not None
read = reads.careful
validate = Everything.model_validate_json


def verdicts(value: bytes, read: Any, validate: Any) -> tuple[Any, Any]:
    """What the derived type reads (None: it refuses), and what pydantic does."""
    found: list[Any] = []
    for call in (read, validate):
        try:
            one = call(value)
        except ValueError:
            found.append(None)
            continue
        found.append(as_model(one) if isinstance(one, Derived) else one)
    return found[0], found[1]


def same(ours: BaseModel, theirs: BaseModel) -> bool:
    """Equal field by field, and of equal types; a time may differ by the microsecond that one rounds and one cuts."""
    return ours == theirs or all(
        abs(a - b) <= timedelta(microseconds=1) if isinstance(a, datetime) and isinstance(b, datetime) else a == b
        for a, b in zip(dict(ours).values(), dict(theirs).values(), strict=True)
    )


def check(value: bytes, read: Any = read, validate: Any = validate) -> bool:
    """Whether the derived type accepts; then pydantic must, and alike. What holds known fields only is read alike by
    either way."""
    if read is reads.careful and len(value) <= WHOLE_MAX:
        known, careful = verdicts(value, reads.known, read)[0], verdicts(value, reads.careful, read)[0]
        assert known is None or known == careful
    ours, theirs = verdicts(value, read, validate)
    if ours is None:
        return False
    assert theirs is not None, f"accepted, and pydantic refuses {value!r}"
    assert same(ours, theirs), f"read differently: {value!r}"
    assert [type(v) for _, v in ours] == [type(v) for _, v in theirs]
    return True


def test_what_fits_is_accepted() -> None:
    assert check(json.dumps(GOOD).encode())
    assert check(b'{"event_id":"e","occurred_at":"2026-01-01T10:00:00Z"}')


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1", "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=1_000, deadline=None)
@given(
    changed=st.dictionaries(st.sampled_from([*GOOD, "unknown"]), junk, max_size=3),
    drop=st.sets(st.sampled_from([*GOOD])),
)
def test_it_agrees_on_values_of_every_type(changed: dict[str, Any], drop: set[str]) -> None:
    check(json.dumps({name: v for name, v in (GOOD | changed).items() if name not in drop}).encode())


@settings(max_examples=1_000, deadline=None)
@given(st.data())
def test_it_agrees_on_bytes_that_were_damaged(data: st.DataObject) -> None:
    value = bytearray(json.dumps(GOOD).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value) - 1))
        piece = data.draw(
            st.sampled_from([b"", b"\xff", b"\\ud800", b"\xed\xa0\x80", b"0", b"-", b".", b"e9", b'"', b"\n"])
        )
        value[at : at + data.draw(st.integers(0, 4))] = piece
    check(bytes(value))


TIMES = st.from_regex(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9](:[0-6][0-9]([.,][0-9]{1,10})?)?"
    r"([Zz]|[+-][0-2][0-9](:?[0-6][0-9])?)?",
    fullmatch=True,
)


@settings(max_examples=1_000, deadline=None)
@given(TIMES)
def test_it_agrees_on_times(text: str) -> None:
    check(json.dumps(GOOD | {"when": text}).encode())


NUMBERS = [
    "1.0",
    "1e2",
    "-0",
    "9" * 20,
    "9" * 5000,
    "-9223372036854775809",
    "01",
    "1.",
    "NaN",
    "Infinity",
    "1e309",
    "5e-324",
]


@pytest.mark.parametrize("name", ["number", "small", "ratio", "flag", "level", "unknown"])
@pytest.mark.parametrize("text", NUMBERS)
def test_it_agrees_on_numbers(name: str, text: str) -> None:
    plain = {key: value for key, value in GOOD.items() if key != name}
    check(json.dumps(plain).encode()[:-1] + f',"{name}":{text}}}'.encode())


@pytest.mark.parametrize(
    "skipped", [b'"\xff"', b'"\\ud800"', b"01", b"[" * 250 + b"]" * 250, b'{"a":' * 250 + b"1" + b"}" * 250]
)
def test_what_is_skipped_is_read_as_carefully(skipped: bytes) -> None:
    assert not check(json.dumps(GOOD).encode()[:-1] + b',"unknown":' + skipped + b"}")


@pytest.mark.parametrize("code", ["en\n", "EN", "e", "eng", "\u00e91", "\uff11\uff12"])
def test_patterns_mean_the_same(code: str) -> None:
    assert not check(json.dumps(GOOD | {"code": code}, ensure_ascii=False).encode())


@pytest.mark.parametrize("worker", [LeadScoring, TicketRouting])
@settings(max_examples=300, deadline=None)
@given(changed=st.dictionaries(st.integers(0, 30), junk, max_size=2))
def test_the_shipped_events_agree(worker: Any, changed: dict[int, Any]) -> None:
    event = json.loads(worker.example.model_dump_json())
    names = [*event]
    event |= {names[at % len(names)]: value for at, value in changed.items()}
    reads = decoder(worker.event)
    assert reads is not None
    accepted = check(json.dumps(event).encode(), reads.careful, worker.event.model_validate_json)
    assert accepted or changed


def test_it_has_the_properties_methods_and_class_values_of_its_model() -> None:
    one = read(json.dumps(GOOD).encode())
    assert (one.key, one.doubled(), one.doubled(5), one.kind) == ("ab-3", 6, 15, "all")
    assert one.upper() == "E"  # by way of the model: it calls super()
    assert one.model_dump() == Everything.model_validate_json(json.dumps(GOOD)).model_dump()
    with pytest.raises(AttributeError):
        _ = one.nothing
    with pytest.raises(AttributeError):
        one.number = 5


@pytest.mark.parametrize("model", [Event, LeadEvent, TicketEvent, LeadScore, TicketRoute, Everything])
def test_what_is_shipped_can_be_derived(model: type[BaseModel]) -> None:
    assert derive(model) is not None


class Validated(Event):
    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, number: int) -> int:
        return number


class Aliased(Event):
    number: int = Field(alias="n")


class Open(Event):
    model_config = ConfigDict(extra="allow")


class Computed(Event):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2


class Either(Event):
    number: int | str


class Trimmed(Event):
    model_config = ConfigDict(str_strip_whitespace=True)


class Tree(Event):
    below: list[Tree] = []


class Odd(Event):
    word: Annotated[str, StringConstraints(pattern=r"^\d+$")]


class Huge(Event):
    number: Annotated[int, Field(le=10**30)]


class Own(Event):
    def __len__(self) -> int:
        return 1


class Started(Event):
    def model_post_init(self, context: Any) -> None:
        raise ValueError


@pytest.mark.parametrize(
    "model",
    [Validated, Aliased, Open, Computed, Either, Trimmed, Tree, Odd, Huge, Own, Started],
    ids=lambda m: m.__name__,
)
def test_what_cannot_be_derived_exactly_is_left_to_pydantic(model: type[BaseModel]) -> None:
    assert derive(model) is None


answers = st.fixed_dictionaries(
    {"probability": junk | st.floats(0, 1), "band": junk | st.sampled_from(["cold", "hot"])}, optional={"more": junk}
)


@settings(max_examples=500, deadline=None)
@given(answers)
def test_an_answer_as_a_dict_is_checked_and_printed_as_its_model_is(answer: dict[str, Any]) -> None:
    try:
        expected = LeadScore.model_validate(answer).model_dump_json()
    except ValueError:
        with pytest.raises(ValueError, match="validation error"):
            Answers(LeadScore, 10_000).encode_many([answer])
    else:
        (printed,) = Answers(LeadScore, 10_000).encode_many([answer])
        assert json.loads(printed) == json.loads(expected)
        assert list(json.loads(printed)) == list(json.loads(expected))


class Finite(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    score: float


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_where_the_answer_says_so(score: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Answers(Finite, 10_000).encode_many([{"score": score}])


def test_what_merely_resembles_a_string_is_pydantics_to_judge() -> None:
    answer = {"probability": 0.5, "band": np.str_("hot")}
    (printed,) = Answers(LeadScore, 10_000).encode_many([answer])
    assert json.loads(printed) == {"probability": 0.5, "band": "hot"}


def test_a_part_of_an_answer_is_checked_too() -> None:
    route = {"intent": "a", "candidates": [{"intent": "a", "probability": 2.0}]}
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Answers(TicketRoute, 10_000).encode_many([route])


def test_derived_structs_are_no_burden_on_the_collector() -> None:
    made = derive(Everything)
    assert made is not None
    assert msgspec.inspect.type_info(made).cls is made
    assert made.__struct_config__.gc is False
