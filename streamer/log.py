"""One stream of logs, ours and everybody else's, as JSON or for a terminal.

No payloads: whatever is logged under the name of a record's content is dropped, so that a careless line cannot
put a customer's words into a log store.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from pydantic import BaseModel

PAYLOADS = frozenset({"value", "payload", "key", "record", "records", "item", "items", "body", "text", "answer"})
"""Names under which content would travel; a value that is bytes or a pydantic model is dropped under any name."""

DROPPED = "(not logged)"

Format = Literal["auto", "console", "json"]

# Both without the local variables of each frame, which structlog would show: records are among them.
JSON: list[structlog.typing.Processor] = [
    structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    structlog.processors.JSONRenderer(default=str),
]
CONSOLE: list[structlog.typing.Processor] = [
    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
]


def configure(level: str, log_format: Format) -> None:
    """Send every log of this process to stderr, in one shape. `auto` is console on a terminal, else JSON.

    Call it once at the start; calling it again replaces what was set. Context bound by
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *(JSON if plain else CONSOLE)],
        )
    )
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def without_payloads(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what may hold a record's content."""
    for name, value in event.items():
        if name in PAYLOADS or isinstance(value, bytes | BaseModel):
            event[name] = DROPPED
    return event


def _is_news(line: logging.LogRecord) -> bool:
    """Consumer and producer are given the same settings, and each complains of the other's."""
    return not (line.name == "librdkafka" and "and will be ignored by this" in line.getMessage())
