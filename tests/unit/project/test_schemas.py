"""What is on the topics stays readable: every schema is compared with the one that was published."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from streamer.cli.schema import schemas

GOLDEN = Path(__file__).parents[3] / "schemas" / "json"
REGENERATE = "streamer schema export --out schemas/json"
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
SAME = ("type", "format", "pattern")

Schema = dict[str, Any]


def breaks(old: Schema, new: Schema, *, written_by_others: bool) -> list[str]:
    """Why a change breaks somebody: events are written by others, who must go on being accepted; predictions are
    read by others, who must go on understanding. Nobody's field may vanish."""
    told = [f"{path} is gone" for path in sorted(_fields(old, old) - _fields(new, new))]
    wide, narrow = (new, old) if written_by_others else (old, new)
    return told + _refused(wide, narrow, wide, narrow, "")


def _refused(wide: Schema, narrow: Schema, wide_root: Schema, narrow_root: Schema, path: str) -> list[str]:
    """What `wide` does not take of what `narrow` may hold."""
    told = []
    for variant in _variants(narrow, narrow_root):
        tries = [_refused_variant(w, variant, wide_root, narrow_root, path) for w in _variants(wide, wide_root)]
        told += min(tries, key=len)
    return told


def _refused_variant(wide: Schema, narrow: Schema, wide_root: Schema, narrow_root: Schema, path: str) -> list[str]:
    told = [f"{path or '.'}: {word}" for word in SAME if word in wide and wide[word] != narrow.get(word)]
    for word in LOWER:
        if word in wide and narrow.get(word, float("-inf")) < wide[word]:
            told.append(f"{path}: {word}")
    for word in UPPER:
        if word in wide and narrow.get(word, float("inf")) > wide[word]:
            told.append(f"{path}: {word}")
    if "enum" in wide and not set(narrow.get("enum", [object()])) <= set(wide["enum"]):
        told.append(f"{path}: enum")
    told += [f"{path}.{name}: required" for name in set(wide.get("required", ())) - set(narrow.get("required", ()))]
    for name, part in wide.get("properties", {}).items():
        if name in narrow.get("properties", {}):
            told += _refused(part, narrow["properties"][name], wide_root, narrow_root, f"{path}.{name}")
    if "items" in wide:
        told += _refused(wide["items"], narrow.get("items", {}), wide_root, narrow_root, f"{path}[]")
    return told


def _variants(schema: Schema, root: Schema) -> list[Schema]:
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return [variant for part in schema["anyOf"] for variant in _variants(part, root)]
    return [{**schema, "enum": [schema["const"]]} if "const" in schema else schema]


def _fields(schema: Schema, root: Schema, path: str = "") -> set[str]:
    found = set()
    for variant in _variants(schema, root):
        for name, part in variant.get("properties", {}).items():
            found |= {f"{path}.{name}"} | _fields(part, root, f"{path}.{name}")
        if "items" in variant:
            found |= _fields(variant["items"], root, f"{path}[]")
    return found


def golden() -> dict[str, Schema]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))}


@pytest.mark.parametrize("topic", sorted(golden()))
def test_no_change_breaks_readers_or_writers(topic: str) -> None:
    told = breaks(golden()[topic], schemas().get(topic, {}), written_by_others=".events." in topic)
    assert not told, f"{topic}: {told} breaks those who use it. Give the topic a new version, or: {REGENERATE}"


def test_the_published_schemas_are_those_of_the_code() -> None:
    assert schemas() == golden(), f"publish the change: {REGENERATE}"


# The check itself, on planted changes.

EVENT: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 8},
        "job": {"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]},
        "age": {"type": "integer", "minimum": 16, "maximum": 120},
        "list": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
    },
    "required": ["id", "age"],
    "$defs": {"Part": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}},
}


def changed(path: str, value: Any) -> Schema:
    new = copy.deepcopy(EVENT)
    *way, last = path.split("/")
    place: Any = new
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return new


NARROWER = [
    ("properties/id/maxLength", 7, ".id: maxLength"),
    ("properties/id/minLength", 2, ".id: minLength"),
    ("properties/id/pattern", "^x", ".id: pattern"),
    ("properties/id/type", "integer", ".id: type"),
    ("properties/age/minimum", 17, ".age: minimum"),
    ("properties/job/anyOf/0/enum", ["a"], ".job: enum"),
    ("properties/job/anyOf", [{"enum": ["a", "b"], "type": "string"}], ".job: type"),
    ("required", ["id", "age", "job"], ".job: required"),
    ("$defs/Part/properties/n/type", "string", ".list[].n: type"),
    ("$defs/Part/required", ["n", "m"], ".list[].m: required"),
]


@pytest.mark.parametrize(("path", "value", "told"), NARROWER)
def test_a_narrower_event_breaks_its_writers(path: str, value: Any, told: str) -> None:
    assert told in breaks(EVENT, changed(path, value), written_by_others=True)


@pytest.mark.parametrize(("path", "value", "told"), [case for case in NARROWER if "type" not in case[0]])
def test_a_wider_prediction_breaks_its_readers(path: str, value: Any, told: str) -> None:
    assert told in breaks(changed(path, value), EVENT, written_by_others=False)


@pytest.mark.parametrize("path", ["properties/job", "properties/list", "$defs/Part/properties/n"])
@pytest.mark.parametrize("written_by_others", [True, False])
def test_a_field_that_is_gone_breaks_somebody(path: str, written_by_others: bool) -> None:
    told = breaks(EVENT, changed(path, None), written_by_others=written_by_others)
    assert any("is gone" in one for one in told)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("properties/new", {"type": "string"}),
        ("properties/age/maximum", 130),
        ("properties/job/anyOf/0/enum", ["a", "b", "c"]),
        ("required", ["id"]),
        ("description", "other words"),
    ],
)
def test_a_wider_event_breaks_nobody(path: str, value: Any) -> None:
    assert breaks(EVENT, changed(path, value), written_by_others=True) == []


def test_nothing_changed_breaks_nobody() -> None:
    assert breaks(EVENT, EVENT, written_by_others=True) == breaks(EVENT, EVENT, written_by_others=False) == []
