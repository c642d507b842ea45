"""Personal data: which parts of a value may be shown, and what may be said of an error that quotes one.

The tags are on the models (`schemas.Pii`). Nothing that is tagged goes to a log, a metric, a header or a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from schemas.pii import HIDDEN, Tags
from streamer.errors import StreamerError

NOT_SAID = "(text not shown: it may quote an event)"

QUOTING = {"value_error", "assertion_error", "union_tag_invalid", "uuid_parsing", "bytes_invalid_encoding"}
"""Errors of pydantic whose text may quote the event, or is the text of a model's own validator."""
KINDS = frozenset(get_args(ErrorType))
PLAIN = KINDS - QUOTING

Path = tuple[str | int, ...]
"""From the root of a JSON document: names of fields and indices of items."""


def replaced(value: Any, tags: Sequence[Tags], change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """A JSON value with each tagged part changed. Where tagged parts are nested, only the outermost is changed."""
    if not tags:
        return value
    if any(one.here for one in tags):
        return change(path, value)
    if isinstance(value, dict):
        return {name: replaced(part, _below(tags, name), change, (*path, name)) for name, part in value.items()}
    if isinstance(value, list):
        return [replaced(part, _below(tags, at), change, (*path, at)) for at, part in enumerate(value)]
    return value


def shown(value: Any, tags: Sequence[Tags]) -> Any:
    """A JSON value as a terminal may show it. A field that the model does not know may hold anything, so it is hidden
    too: a misspelt name does not make a text harmless."""
    if not tags or any(one.here for one in tags):
        return HIDDEN
    if isinstance(value, dict):
        return {name if (below := _below(tags, name)) else "*": shown(part, below) for name, part in value.items()}
    if isinstance(value, list):
        return [shown(part, _below(tags, at)) for at, part in enumerate(value)]
    return value


def described(error: ValidationError, names: frozenset[str], problems_max: int = 1) -> str:
    """What is wrong with an event, without any of its content. `names` are the names of the model's fields. Any other
    name is the producer's own text, an extra key or the key of a mapping, so it becomes `*`."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    told = []
    for one in found[:problems_max]:
        where = ".".join(str(part) if isinstance(part, int) or part in names else "*" for part in one["loc"])
        what = one["msg"] if one["type"] in PLAIN else f"is refused by the event's model ({one['type']})"
        told.append(f"{where}: {what}" if where else what)
    more = f" (and {len(found) - problems_max} more)" if len(found) > problems_max else ""
    return "; ".join(told) + more


def said(error: BaseException) -> str:
    """The text of an error as a log may have it. Our errors quote no event; what others quote nobody knows."""
    if isinstance(error, StreamerError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValidationError):
        kinds = {str(one["type"]) for one in error.errors(include_url=False, include_input=False)}
        return f"{error.error_count()} errors ({', '.join(sorted(kinds & KINDS))})"
    return NOT_SAID if str(error) else ""


@cache
def field_names(model: type[BaseModel]) -> frozenset[str]:
    """The names of all fields of a model and of the models in it, as its JSON has them."""
    found: set[str] = set()
    todo: list[Any] = [model.model_json_schema()]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            found.update(part.get("properties", ()))
            todo += part.values()
        elif isinstance(part, list):
            todo += part
    return frozenset(found)


def _below(tags: Sequence[Tags], name: str | int) -> list[Tags]:
    return [below for one in tags for below in one.below(name)]
