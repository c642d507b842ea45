"""One stream of logs, ours and everybody else's, as JSON or for a terminal.

No payloads: a value under the name of a record's content or of personal data is dropped, at every level. The text of
an exception that is not ours is dropped too, because it may quote an event. So a careless line of a worker or a
library cannot put a customer's words into a log store.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import is_dataclass
from typing import Any, Literal, TextIO

import msgspec
import structlog
from pydantic import BaseModel

from streamer.privacy.pii import said
from streamer.telemetry.repeats import CountingHandler

PAYLOADS = frozenset({"value", "payload", "key", "record", "records", "item", "items", "body", "text", "answer"})
"""Names under which content would travel; bytes, models and records are dropped under any name."""
ITS_OWN = frozenset({"event", "level", "logger", "timestamp", "exception", "stack", "exc_info", "_record"})
"""The names that a line is made of. They stay, even where a field of an event is called the same."""
QUOTED = re.compile(r"input_value=.*, input_type=", re.DOTALL)
"""How pydantic quotes a value, in warnings too."""

DROPPED = "(not logged)"

Format = Literal["auto", "console", "json"]

_kept_out: set[str] = set()


def keep_out(names: Iterable[str]) -> None:
    """From now on drop values under these names too, which are the personal data of a worker's events."""
    _kept_out.update(set(names) - ITS_OWN)


def configure(level: str, log_format: Format) -> None:
    """Send every log of this process to stderr, in one shape. `auto` is console on a terminal, else JSON.

    Call it once at the start; calling it again replaces what was set. Warnings that come again and again are counted
    (`streamer.telemetry.repeats`). Context bound by
    `structlog.contextvars` (worker, partition, batch, trace id) is in every line of its thread.
    """
    plain = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_payloads,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = CountingHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *(JSON if plain else CONSOLE)],
        )
    )
    handler.addFilter(_is_news)
    handler.addFilter(_without_arguments)
    root = logging.getLogger()
    for replaced in root.handlers:
        if isinstance(replaced, CountingHandler):
            replaced.close()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def without_payloads(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what may hold a record's content."""
    for name, value in event.items():
        if name not in ("exc_info", "_record"):
            event[name] = DROPPED if _is_private(name) else _clean(value)
    return event


def stack(error: BaseException) -> str:
    """The stack of an exception and of what led to it, without local variables and without foreign texts."""
    return "".join(_told(error, set()))


def _told(error: BaseException, seen: set[int]) -> Iterator[str]:
    """As Python prints it, the cause first."""
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _told(cause, seen)
        yield "\n" + ("which caused:" if error.__cause__ else "and while that was handled:") + "\n\n"
    yield from traceback.format_tb(error.__traceback__)
    yield ": ".join(part for part in (type(error).__name__, said(error)) if part) + "\n"
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield "\nof which one is:\n\n"
            yield from _told(part, seen)


def _exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the stack in the place of the exception."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exception()
    if given and error is not None:
        event["exception"] = stack(error)
    return event


def _show(out: TextIO, exc_info: Any) -> None:
    if exc_info[1] is not None:
        out.write("\n" + stack(exc_info[1]).rstrip())


# Both leave out the local variables of each frame, which structlog would show: records are among them.
JSON: list[structlog.typing.Processor] = [_exception, structlog.processors.JSONRenderer(default=str)]
CONSOLE: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(exception_formatter=_show)]


def _is_private(name: Any) -> bool:
    return name in PAYLOADS or name in _kept_out


def _clean(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview | BaseModel | msgspec.Struct) or is_dataclass(value):
        return DROPPED
    if isinstance(value, BaseException):
        return ": ".join(part for part in (type(value).__name__, said(value)) if part)
    if isinstance(value, str):
        return QUOTED.sub(f"input_value={DROPPED}, input_type=", value) if "input_value=" in value else value
    if isinstance(value, Mapping):
        return {name: DROPPED if _is_private(name) else _clean(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(part) for part in value]
    return value


def _without_arguments(line: logging.LogRecord) -> bool:
    """Clean the arguments before `%` puts them into the text of a line."""
    if isinstance(line.args, Mapping):
        line.args = _clean(line.args)
    elif line.args:
        line.args = tuple(_clean(argument) for argument in line.args)
    return True


def _is_news(line: logging.LogRecord) -> bool:
    """Consumer and producer are given the same settings, and each complains of the other's."""
    return not (line.name == "librdkafka" and "and will be ignored by this" in line.getMessage())
