"""Bytes to events, outcomes to messages: JSON as pydantic validates it, and an envelope around each answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas import dead_letters
from streamer.clock import Clock
from streamer.errors import Reason
from streamer.features.log import FeatureLog
from streamer.privacy.encryption import Cipher
from streamer.records import Headers, Item, Message, Predicted, Record, Rejected
from streamer.wire import headers
from streamer.wire.reading import EventReader
from streamer.worker import Worker

ENVELOPE_BYTES_MAX = 2_048
"""The envelope and the headers of any message take less than this, beside its answer."""


class Identity(msgspec.Struct, frozen=True):
    """Who answers. Every message names it as its origin."""

    worker: str
    model_version: str
    model_digest: str
    group: str


class JsonCodec:
    """JSON records in, JSON predictions and byte-identical dead letters out.

    With a cipher, the codec first decrypts what is encrypted in a record. It encrypts a dead letter's value whole: the
    value may be no JSON, or have a person's words under a misspelt name.
    """

    def __init__(
        self,
        worker: Worker[Any, Any],
        identity: Identity,
        clock: Clock,
        bytes_max: int,
        cipher: Cipher | None = None,
        features: FeatureLog | None = None,
    ) -> None:
        self._reader = EventReader(worker.event, bytes_max, cipher)
        self._cipher = cipher
        self._features = features
        self._target = worker.target
        self._dead_letters = dead_letters(worker.source)
        self._identity = identity
        self._clock = clock
        self._bytes_max = bytes_max
        self._encode = msgspec.json.Encoder().encode
        self._forms: dict[int, bytes] = {}

    def decode_many(self, items: Sequence[Item]) -> list[tuple[Item, Rejected]]:
        """Fill in each item's `event`. Returns the items that have none, each with the reason."""
        return self._reader.decode_many(items)

    def encode_many(self, items: Sequence[Item]) -> list[Message]:
        """The messages of settled items, in order; a skipped item has none."""
        produced_at = _iso(self._clock.time_ms()).encode()
        forms, encode, target, bytes_max = self._forms, self._encode, self._target, self._bytes_max
        messages = []
        for item in items:
            record, outcome = item.record, item.outcome
            if type(outcome) is Predicted:
                partition, offset, key = record.partition, record.offset, record.key or b""
                trace = _trace(record.headers) if record.headers else NO_HEADERS
                value = (forms.get(partition) or self._form(record)) % (
                    offset,
                    encode(item.event.event_id),
                    encode(key.decode() if key.isascii() else key.decode(errors="backslashreplace")),
                    offset,
                    produced_at,
                    b"hit" if outcome.cached else b"miss",
                    outcome.answer,
                )
                size = len(value) + len(key)
                if size <= bytes_max and (trace is NO_HEADERS or size + _size(trace) <= bytes_max):
                    messages.append(Message(target, partition, key, value, trace))
                    if item.as_of is not None and self._features is not None:
                        messages += self._features.of(item)
                    continue
                # A long key is in the message twice. The broker would refuse it, and its partition would never move
                # again.
                outcome = item.outcome = Rejected(Reason.ANSWER_TOO_LARGE, "key and answer are too large", "Reject")
            if isinstance(outcome, Rejected):
                messages.append(self._dead_letter(record, outcome))
        return messages

    def _form(self, record: Record) -> bytes:
        """`schemas.Prediction` of this partition, with placeholders for what differs between its records. A struct with
        all of it took twice the time. `tests/unit/wire/test_codec.py` holds the form to the schema."""
        identity = self._identity
        prediction_id = self._encode(f"{identity.worker}/{record.topic}/{record.partition}/")[1:-1]
        named = self._encode(
            {
                "worker": identity.worker,
                "model_version": identity.model_version,
                "model_digest": identity.model_digest,
                "source": {"topic": record.topic, "partition": record.partition},
            }
        )
        form = (
            b'{"prediction_id":"' + _literal(prediction_id) + b'%d","event_id":%b,"key":%b,'
            + _literal(named[1:-2]) + b',"offset":%d},"produced_at":"%b","cache":"%b","answer":%b}'
        )  # fmt: skip
        self._forms[record.partition] = form
        return form

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
        if self._cipher is not None and value is not None:
            value = self._cipher.seal(value)
        if record.size + ENVELOPE_BYTES_MAX + sum(len(v or b"") for _, v in original) > self._bytes_max:
            # The broker would refuse this dead letter, and it would block its partition for ever. So send only where
            # the record is, and the digest that identifies it.
            digest = hashlib.sha256(record.value or b"").hexdigest()
            said += [(headers.VALUE_SHA256, digest), (headers.VALUE_BYTES, str(len(record.value or b"")))]
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


def _literal(text: bytes) -> bytes:
    """The text, escaped for a form that is filled in by `%`."""
    return text.replace(b"%", b"%%")


NO_HEADERS: Headers = []


def _trace(headers_read: Headers) -> Headers:
    """The headers of a prediction: the trace alone, and only if it has a trace's form. The rest is in the envelope;
    three headers for it made the client three times slower."""
    return [
        (name, value)
        for name, value in headers_read
        if name == headers.TRACEPARENT and value is not None and headers.TRACE.fullmatch(value)
    ]


def _size(headers_sent: Headers) -> int:
    return sum(len(value or b"") for _, value in headers_sent)


def _number(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 6 else 0


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
