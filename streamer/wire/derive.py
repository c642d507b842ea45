"""msgspec types derived from pydantic models, for the hot path: a third of the time, the same verdict.

The pydantic model stays the one source of truth. What cannot be derived exactly (validators, aliases, unions,
serialisers, ...) is not derived at all, and pydantic decides about everything that a derived type refuses. So a
derived type must never accept what pydantic refuses, and never read a value differently.
`tests/unit/wire/test_derive.py` holds it to both.

One difference is known: msgspec rounds a time with more than six digits of a second, and pydantic cuts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from types import FunctionType
from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec
from pydantic import BaseModel

from streamer.wire.json_limits import DEPTH_MAX, INT_MAX, INT_MIN, depth, opened

WHOLE_MAX = 4_300
"""Bytes. A longer text may hold an integer of more digits than pydantic reads, in a field that msgspec skips."""
SIMPLE_PATTERN = re.compile(r"\^(\[[A-Za-z0-9._-]+\]|[A-Za-z0-9_-])(\{\d+(,\d+)?\}|[+*])?\$")
"""Patterns that mean the same in Rust's regular expressions (pydantic) and Python's (msgspec), except at the end: `$`
of Python also matches before a last line break."""

IGNORED = {"type", "metadata", "ref", "strict"}
BOUNDS = {"ge", "gt", "le", "lt"}
LENGTHS = {"min_length", "max_length"}
CONFIG = {"strict", "extra_fields_behavior", "allow_inf_nan", "title", "hide_input_in_errors"}
REPR = "__repr_args__"
"""Python and pydantic call names with underscores by themselves. A derived model may redefine only this one; a
`__hash__` or `__replace__` of its own is not used."""


class _Underivable(Exception):
    """This part of a model has no msgspec type that is exactly as strict."""


class Derived(msgspec.Struct, frozen=True):
    """The base of every derived type. Whatever its model can do beyond the fields, it does by way of the model."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(as_model(self), name)

    def __repr__(self) -> str:
        return repr(as_model(self))  # which hides what is tagged as personal data


_models: dict[type[Derived], type[BaseModel]] = {}


class Origin(Enum):
    """Where the values come from. Only Python's can be infinite or NaN, or of a type that merely resembles another."""

    JSON = "bytes"
    KNOWN = "bytes that hold no field but the model's"
    PYTHON = "dicts"


def derive(model: type[BaseModel], origin: Origin = Origin.JSON) -> type[Derived] | None:
    """The struct with the fields, defaults, constraints, properties and methods of a model; None when some part of
    the model cannot be derived exactly."""
    try:
        return _Derivation(model.__pydantic_core_schema__, origin).struct(model)
    except _Underivable:
        return None


class Decoder(NamedTuple):
    """Two ways from JSON bytes to a derived struct. Both raise a `ValueError` for bytes that pydantic should decide.

    `known` takes `WHOLE_MAX` bytes at most, and refuses fields that the model does not have: what it reads is no deeper
    than its types, and nothing is skipped. `careful` takes any bytes: it guards the unknown fields, which msgspec skips
    and pydantic reads.
    """

    known: Callable[[bytes], Any]
    careful: Callable[[bytes], Any]


def decoder(model: type[BaseModel]) -> Decoder | None:
    """How to read a model's JSON by its derived struct; None when there is none."""
    struct, known = derive(model), derive(model, Origin.KNOWN)
    if struct is None or known is None:
        return None
    decode = msgspec.json.Decoder(struct).decode

    def careful(value: bytes) -> Any:
        if not value.isascii():
            value.decode()  # UnicodeDecodeError is a ValueError
        if len(value) > WHOLE_MAX or (opened(value) > DEPTH_MAX and depth(value) > DEPTH_MAX):
            raise ValueError("too long or too deep to be sure")
        return decode(value)

    return Decoder(msgspec.json.Decoder(known).decode, careful)


def as_model(struct: Derived) -> BaseModel:
    """The pydantic instance with the same values."""
    made = {name: _plain(getattr(struct, name)) for name in struct.__struct_fields__}
    return _models[type(struct)].model_construct(**made)


def _plain(value: Any) -> Any:
    if isinstance(value, Derived):
        return as_model(value)
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value


class _Derivation:
    """One walk over pydantic's own description of what it validates."""

    def __init__(self, schema: Mapping[str, Any], origin: Origin) -> None:
        self._origin = origin
        self._definitions = {part["ref"]: part for part in schema.get("definitions", ())}
        self._root = schema["schema"] if schema["type"] == "definitions" else schema
        self._open: list[str] = []
        self._made: dict[type[BaseModel], type[Derived]] = {}

    def struct(self, model: type[BaseModel]) -> type[Derived]:
        made = self._type(self._root)
        if not (isinstance(made, type) and issubclass(made, Derived) and _models[made] is model):
            raise _Underivable
        return made

    def _type(self, schema: Mapping[str, Any]) -> Any:
        kind = schema["type"]
        make = getattr(self, "_" + kind.replace("-", "_"), None)
        if make is None or "serialization" in schema:
            raise _Underivable(kind)
        return make(schema)

    def _definition_ref(self, schema: Mapping[str, Any]) -> Any:
        ref = schema["schema_ref"]
        if ref in self._open or ref not in self._definitions:  # a model that holds itself
            raise _Underivable(ref)
        self._open.append(ref)
        made = self._type(self._definitions[ref])
        self._open.pop()
        return made

    def _bool(self, schema: Mapping[str, Any]) -> Any:
        _only(schema)
        return bool

    def _int(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, BOUNDS)
        if self._origin is not Origin.PYTHON:
            lower = {} if "gt" in schema else {"ge": INT_MIN}
            upper = {} if "lt" in schema else {"le": INT_MAX}
            schema = {**lower, **upper, **schema}
        return _limited(int, schema, BOUNDS)

    def _float(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, BOUNDS | {"allow_inf_nan"})
        if self._origin is Origin.PYTHON and not schema.get("allow_inf_nan", True):
            raise _Underivable("infinite")
        return _limited(float, schema, BOUNDS)

    def _str(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, LENGTHS | {"pattern"})
        pattern = schema.get("pattern")
        if pattern is None:
            return _limited(str, schema, LENGTHS)
        if not isinstance(pattern, str) or not SIMPLE_PATTERN.fullmatch(pattern):
            raise _Underivable(pattern)
        return _limited(Annotated[str, msgspec.Meta(pattern=pattern[:-1] + r"\Z")], schema, LENGTHS)

    def _datetime(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, {"tz_constraint", "microseconds_precision"})
        if schema.get("microseconds_precision", "truncate") != "truncate":
            raise _Underivable("microseconds")
        zone = schema.get("tz_constraint")
        if zone not in (None, "aware", "naive"):
            raise _Underivable("offset")
        return datetime if zone is None else Annotated[datetime, msgspec.Meta(tz=zone == "aware")]

    def _literal(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, {"expected"})
        expected = schema["expected"]
        if {type(value) for value in expected} not in ({str}, {int}):
            raise _Underivable("literal")
        return Literal[tuple(expected)]

    def _nullable(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, {"schema"})
        return self._type(schema["schema"]) | None

    def _list(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, LENGTHS | {"items_schema"})
        return _limited(list[self._type(schema["items_schema"])], schema, LENGTHS)  # type: ignore[misc]

    def _tuple(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, LENGTHS | {"items_schema", "variadic_item_index"})
        items = [self._type(item) for item in schema["items_schema"]]
        if "variadic_item_index" not in schema:
            return tuple[tuple(items)]  # type: ignore[misc]
        if len(items) != 1:
            raise _Underivable("tuple")
        return _limited(tuple[items[0], ...], schema, LENGTHS)  # type: ignore[valid-type]

    def _dict(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, LENGTHS | {"keys_schema", "values_schema"})
        if self._type(schema["keys_schema"]) is not str:
            raise _Underivable("dict")
        return _limited(dict[str, self._type(schema["values_schema"])], schema, LENGTHS)  # type: ignore[misc]

    def _model(self, schema: Mapping[str, Any]) -> Any:
        _only(schema, {"cls", "schema", "config", "custom_init", "root_model", "frozen"})
        model, config, inner = schema["cls"], schema.get("config", {}), schema["schema"]
        extra = config.get("extra_fields_behavior", "ignore")
        if self._origin is Origin.PYTHON and (config.get("strict") or not config.get("allow_inf_nan", True)):
            raise _Underivable(model.__name__)
        if schema.get("custom_init") or schema.get("root_model") or set(config) - CONFIG or extra == "allow":
            raise _Underivable(model.__name__)
        if inner["type"] != "model-fields" or inner.get("computed_fields"):
            raise _Underivable(model.__name__)
        if model not in self._made:
            self._made[model] = self._struct(
                model, inner["fields"], forbid=extra == "forbid" or self._origin is Origin.KNOWN
            )
        return self._made[model]

    def _struct(self, model: type[BaseModel], fields: Mapping[str, Any], forbid: bool) -> type[Derived]:
        try:
            made = msgspec.defstruct(
                model.__name__,
                [(name, *self._field(field)) for name, field in fields.items()],
                bases=(Derived,),
                namespace=_behaviour(model),
                frozen=True,
                kw_only=True,  # a field without a default may come after one that has one
                gc=False,  # what is read from JSON holds no cycles
                forbid_unknown_fields=forbid,
            )
            msgspec.json.Decoder(made)  # finds what msgspec cannot hold, such as bounds beyond 64 bits
        except (TypeError, ValueError, NotImplementedError) as error:
            raise _Underivable(model.__name__) from error
        struct = cast(type[Derived], made)
        _models[struct] = model
        return struct

    def _field(self, field: Mapping[str, Any]) -> tuple[Any, ...]:
        if set(field) - {"type", "schema", "metadata", "frozen"}:  # an alias, say
            raise _Underivable("field")
        schema = field["schema"]
        if schema["type"] != "default":
            return (self._type(schema),)
        _only(schema, {"schema", "default", "default_factory", "default_factory_takes_data"})
        if schema.get("default_factory_takes_data"):
            raise _Underivable("default")
        if "default_factory" in schema:
            return self._type(schema["schema"]), msgspec.field(default_factory=schema["default_factory"])
        return self._type(schema["schema"]), schema["default"]


def _only(schema: Mapping[str, Any], known: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Refuse a constraint that is not known here: it may forbid something that msgspec would let pass."""
    if unknown := set(schema) - IGNORED - known:
        raise _Underivable(f"{schema['type']}: {', '.join(sorted(unknown))}")


def _limited(kind: Any, schema: Mapping[str, Any], names: set[str]) -> Any:
    limits = {name: schema[name] for name in names if name in schema}
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind


def _behaviour(model: type[BaseModel]) -> dict[str, Any]:
    """The model's own properties, methods and class values, which then read the struct's fields. A method that needs
    an instance of the model (`super()`) is left to `Derived.__getattr__`."""
    found: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        if base is BaseModel or not issubclass(base, BaseModel):
            continue
        for name, value in vars(base).items():
            if name.startswith("__"):
                if isinstance(value, FunctionType) and name not in ("__hash__", "__replace__", REPR):
                    raise _Underivable(name)  # its own equality, length and the like
                continue
            code = value.fget if isinstance(value, property) else value
            if isinstance(code, FunctionType) and "__class__" in code.__code__.co_freevars:
                found.pop(name, None)
            elif isinstance(value, FunctionType | property) or name in model.__class_vars__:
                found[name] = value
    return found
