"""The names of every record header that streamer writes or reads; all values are UTF-8 text.

The dead-letter names are the broker's own (KIP-1191, KIP-1034), so that other tools read them too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from schemas import DeadLetter, Source

DLQ_TOPIC = "__dlq.errors.topic"
DLQ_PARTITION = "__dlq.errors.partition"
DLQ_OFFSET = "__dlq.errors.offset"
DLQ_GROUP = "__dlq.errors.group"
DLQ_MESSAGE = "__dlq.errors.message"
DLQ_ERROR = "__streams.errors.exception"
"""The class of the error."""

REASON = "streamer-reason"
"""One of `streamer.errors.Reason`."""
WORKER = "streamer-worker"
ATTEMPTS = "streamer-attempts"
"""How often the record has become a dead letter; a replayed record carries this back to its source topic."""
SOURCE = "streamer-source"
"""`<topic>/<partition>/<offset>` of the record as it was first read; set by `streamer replay`."""

VALUE_SHA256 = "streamer-value-sha256"
VALUE_BYTES = "streamer-value-bytes"
"""A dead letter that is too large to carry its value says these two instead."""

CONTENT_TYPE = "content-type"
TRACEPARENT = "traceparent"
TRACE = re.compile(rb"[0-9a-f]{2}(-[0-9a-f]{1,64}){1,4}")
"""What a `traceparent` looks like (W3C Trace Context). Any other value may be anything, so it is not passed on."""

ERRORS = frozenset(
    {DLQ_TOPIC, DLQ_PARTITION, DLQ_OFFSET, DLQ_GROUP, DLQ_MESSAGE, DLQ_ERROR, REASON, WORKER, ATTEMPTS}
    | {VALUE_SHA256, VALUE_BYTES}
)
"""The headers that a dead letter adds to those of its source record."""


def last(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> bytes | None:
    """The value of the last header of this name: Kafka allows several; the last writer wins."""
    return next((value for key, value in reversed(headers or ()) if key == name), None)


def dead_letter(headers: Sequence[tuple[str, bytes | None]] | None) -> DeadLetter:
    """What the headers of a dead letter say.

    Raises:
        pydantic.ValidationError: a header is missing, or is no number where it must be one.
    """
    said = {name: (value or b"").decode(errors="replace") for name, value in headers or ()}
    return DeadLetter(
        source=Source.model_validate_strings(
            {"topic": said.get(DLQ_TOPIC), "partition": said.get(DLQ_PARTITION), "offset": said.get(DLQ_OFFSET)}
        ),
        group=said.get(DLQ_GROUP, ""),
        worker=said.get(WORKER, ""),
        reason=said.get(REASON, ""),
        message=said.get(DLQ_MESSAGE, ""),
        error=said.get(DLQ_ERROR, ""),
        attempts=said.get(ATTEMPTS, "1"),
    )
