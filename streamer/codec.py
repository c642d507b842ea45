"""Bytes to events, outcomes to messages: JSON with pydantic, and an envelope around each answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from schemas import dead_letters
from streamer import headers
from streamer.clock import Clock
from streamer.errors import Reason
from streamer.records import Headers, Item, Message, Predicted, Record, Rejected
from streamer.worker import Worker

ENVELOPE_BYTES_MAX = 2_048
"""More than the envelope and the headers of any message take, beside its answer."""


PLAIN = set(get_args(ErrorType)) - {"value_error", "assertion_error", "union_tag_invalid"}
"""Errors of pydantic whose text says nothing of the event; those of a model's own validators may quote it."""


class Identity(msgspec.Struct, frozen=True):
    """Who answers: what every message says of its origin."""

    worker: str
    model_version: str
    model_digest: str
    group: str


class _Source(msgspec.Struct, frozen=True, gc=False):
    topic: str
    partition: int
    offset: int


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    """`schemas.Prediction` for the hot path: the answer is JSON already, and pydantic would take ten times as
    long. `tests/unit/test_codec.py` holds the two together."""

    prediction_id: str
    event_id: str
    key: str
    worker: str
    model_version: str
    model_digest: str
    source: _Source
    produced_at: str
    cache: str
    answer: msgspec.Raw


class JsonCodec:
    """JSON records in, JSON predictions and byte-identical dead letters out."""

    def __init__(self, worker: Worker[Any, Any], identity: Identity, clock: Clock, bytes_max: int) -> None:
        self._validate = worker.event.__pydantic_validator__.validate_json
        self._fields = _field_names(worker.event)
        self._target = worker.target
        self._dead_letters = dead_letters(worker.source)
        self._identity = identity
        self._clock = clock
        self._bytes_max = bytes_max
        self._encode = msgspec.json.Encoder().encode
        self._headers: Headers = [
            (headers.CONTENT_TYPE, b"application/json"),
            (headers.MODEL, identity.worker.encode()),
            (headers.MODEL_VERSION, identity.model_version.encode()),
        ]

    def decode_many(self, items: Sequence[Item]) -> list[Rejected | None]:
        """Fill in each item's `event`; one rejection or None an item, in order."""
        return [self._decode(item) for item in items]

    def encode_many(self, items: Sequence[Item]) -> list[Message]:
        """The messages of settled items, in order; a skipped one has none."""
        produced_at = _iso(self._clock.time_ms())
        messages = []
        for item in items:
            outcome = item.outcome
            if isinstance(outcome, Predicted):
                message = self._prediction(item, outcome, produced_at)
                if _size(message) <= self._bytes_max:
                    messages.append(message)
                    continue
                # A long key stands in it twice. The broker would refuse it, and its partition would never move again.
                outcome = item.outcome = Rejected(Reason.ANSWER_TOO_LARGE, "key and answer are too large", "Reject")
            if isinstance(outcome, Rejected):
                messages.append(self._dead_letter(item.record, outcome))
        return messages

    def _decode(self, item: Item) -> Rejected | None:
        record = item.record
        if record.value is None:
            return Rejected(Reason.TOMBSTONE, "the record has no value", "Reject")
        if not record.key:
            return Rejected(Reason.NO_KEY, "the record has no key, so it has no place in any order", "Reject")
        if len(record.value) > self._bytes_max:
            return Rejected(Reason.TOO_LARGE, f"the value has {len(record.value)} bytes", "Reject")
        try:
            item.event = self._validate(record.value)
        except ValidationError as error:
            return _invalid(error, self._fields)
        except Exception as error:  # a validator of the event's model raised what pydantic does not catch
            name = type(error).__name__
            return Rejected(Reason.INVALID, f"the event's model raised {name}", name)
        return None

    def _prediction(self, item: Item, outcome: Predicted, produced_at: str) -> Message:
        record, identity = item.record, self._identity
        envelope = _Envelope(
            prediction_id=f"{identity.worker}/{record.topic}/{record.partition}/{record.offset}",
            event_id=item.event.event_id,
            key=(record.key or b"").decode(errors="backslashreplace"),
            worker=identity.worker,
            model_version=identity.model_version,
            model_digest=identity.model_digest,
            source=_Source(record.topic, record.partition, record.offset),
            produced_at=produced_at,
            cache="hit" if outcome.cached else "miss",
            answer=msgspec.Raw(outcome.answer),
        )
        return Message(
            topic=self._target,
            partition=record.partition,
            key=record.key,
            value=self._encode(envelope),
            headers=self._headers + _trace(record.headers),
        )

    def _dead_letter(self, record: Record, outcome: Rejected) -> Message:
        attempts = 1 + _number(headers.last(record.headers, headers.ATTEMPTS))
        said = [
            (headers.DLQ_TOPIC, record.topic),
            (headers.DLQ_PARTITION, str(record.partition)),
            (headers.DLQ_OFFSET, str(record.offset)),
            (headers.DLQ_GROUP, self._identity.group),
            (headers.DLQ_MESSAGE, outcome.message[:500]),
            (headers.DLQ_ERROR, outcome.error),
            (headers.REASON, outcome.reason),
            (headers.WORKER, self._identity.worker),
            (headers.ATTEMPTS, str(attempts)),
        ]
        original = [(name, value) for name, value in record.headers or () if name != headers.ATTEMPTS]
        key, value = record.key, record.value
        if record.size + ENVELOPE_BYTES_MAX + sum(len(v or b"") for _, v in original) > self._bytes_max:
            # The dead letter would be refused and block its partition for ever: send where the record is
            # instead, and its digest to know it by.
            digest = hashlib.sha256(value or b"").hexdigest()
            said += [(headers.VALUE_SHA256, digest), (headers.VALUE_BYTES, str(len(value or b"")))]
            original, value = [], None
            if len(key or b"") + ENVELOPE_BYTES_MAX > self._bytes_max:
                key = None
        return Message(
            topic=self._dead_letters,
            partition=record.partition,
            key=key,
            value=value,
            headers=original + [(name, text.encode()) for name, text in said],
        )


def _invalid(error: ValidationError, fields: frozenset[str]) -> Rejected:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # What is no field of ours is the producer's own text (an extra key, the key of a mapping), which may be anything.
    where = ".".join(str(part) if isinstance(part, int) or part in fields else "*" for part in first["loc"])
    what = first["msg"] if first["type"] in PLAIN else f"is refused by the event's model ({first['type']})"
    reason = Reason.NOT_JSON if first["type"] == "json_invalid" else Reason.INVALID
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return Rejected(reason, f"{where}: {what}{more}" if where else what, type(error).__name__)


def _field_names(model: type[BaseModel]) -> frozenset[str]:
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


def _size(message: Message) -> int:
    return len(message.value or b"") + len(message.key or b"") + sum(len(v or b"") for _, v in message.headers)


def _trace(record_headers: Headers | None) -> Headers:
    return [header for header in record_headers or () if header[0] == headers.TRACEPARENT]


def _number(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 6 else 0


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
