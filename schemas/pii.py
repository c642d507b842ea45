"""The tag for personal data, and a look-up of the tagged fields of a model.

`Annotated[str, Pii()]` identifies or describes a person. The JSON Schema of the field then says `"x-pii": true`: a
reader of the schema in another language sees the tag too. `streamer.privacy.pii` says what the tag does in a worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema

MARK = "x-pii"
HIDDEN = "(pii)"
"""The text that replaces a tagged value."""


@dataclass(frozen=True)
class Pii:
    """Tags a field, an item of a list or a value of a mapping as personal data."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), MARK: True}


class Tags:
    """The tags of one place in a JSON document and of everything below it.

    `here` tags the whole value; else `_fields` holds the tags of an object's fields by their JSON names, and `_rest`
    the tags of an array's items and of a mapping's values. The tags of a recursive model are recursive as well.
    """

    def __init__(self, schema: Mapping[str, Any], root: Mapping[str, Any], known: dict[int, Tags]) -> None:
        known[id(schema)] = self
        self.here = False
        self._fields: dict[str, list[Tags]] = {}
        self._rest: list[Tags] = []
        for part in _variants(schema, root, set()):
            self.here = self.here or bool(part.get(MARK))
            for name, field in part.get("properties", {}).items():
                self._fields.setdefault(name, []).append(_tags(field, root, known))
            for items in (part.get("items"), part.get("additionalProperties"), *part.get("prefixItems", ())):
                if isinstance(items, Mapping):
                    self._rest.append(_tags(items, root, known))
            self._rest += [_tags(items, root, known) for items in part.get("patternProperties", {}).values()]

    def fields(self) -> Iterator[tuple[str, Tags]]:
        """The named parts of an object; a union of models may have several of one name."""
        return ((name, tags) for name, found in self._fields.items() for tags in found)

    def below(self, name: str | int) -> list[Tags]:
        """The tags of an object's field, or of the item at an index."""
        return self._fields.get(name, self._rest) if isinstance(name, str) else self._rest

    def anywhere(self) -> bool:
        """Whether anything here or below is tagged."""
        return any(tags.here for tags in self._all())

    def names(self) -> frozenset[str]:
        """The names of all fields that are tagged or hold a tagged value."""
        named = [pair for tags in self._all() for pair in tags.fields()]
        return frozenset(name for name, tags in named if tags.anywhere())

    def _all(self) -> list[Tags]:
        seen, todo = [self], [self]
        while todo:
            tags = todo.pop()
            new = [part for part in (*(part for _, part in tags.fields()), *tags._rest) if part not in seen]
            seen += new
            todo += new
        return seen


@cache
def tags(model: type[BaseModel]) -> Tags:
    """The tags of a model, by the structure of its JSON.

    Raises:
        pydantic.PydanticUserError: the model has no JSON Schema.
    """
    schema = model.model_json_schema()
    return Tags(schema, schema, {})


def masked(model: type[BaseModel], name: str, value: Any) -> Any:
    """A field's value for display: hidden where it, or a part of it, is tagged."""
    try:
        found = tags(model)
    except PydanticUserError:  # it is unknown what is tagged
        return HIDDEN
    info = model.model_fields.get(name)
    names = {name, info.alias, info.serialization_alias, info.validation_alias} if info else {name}
    hidden = any(tagged.anywhere() for known in names if isinstance(known, str) for tagged in found.below(known))
    return HIDDEN if hidden else value


def _tags(schema: Mapping[str, Any], root: Mapping[str, Any], known: dict[int, Tags]) -> Tags:
    return known.get(id(schema)) or Tags(schema, root, known)


def _variants(schema: Mapping[str, Any], root: Mapping[str, Any], seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """A schema, the schemas that it refers to, and every alternative for its value."""
    if id(schema) in seen:
        return
    seen.add(id(schema))
    yield schema
    if "$ref" in schema:
        yield from _variants(root["$defs"][schema["$ref"].rpartition("/")[2]], root, seen)
    for word in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(word, ()):
            yield from _variants(part, root, seen)
