"""Bytes to events, outcomes to messages: JSON as pydantic validates it, and an envelope around each answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from schemas import dead_letters
from streamer import derive, encryption, headers, pii
from streamer.clock import Clock
from streamer.derive import WHOLE_MAX
from streamer.encryption import Cipher
from streamer.errors import Reason, Reject
from streamer.feature_log import FeatureLog
from streamer.json_limits import LIST, TABLE, exceeded, shallow
from streamer.records import Headers, Item, Message, Predicted, Record, Rejected
from streamer.worker import Worker

ENVELOPE_BYTES_MAX = 2_048
"""More than the envelope and the headers of any message take, beside its answer."""


class Identity(msgspec.Struct, frozen=True):
    """Who answers: what every message says of its origin."""

    worker: str
    model_version: str
    model_digest: str
    group: str


class JsonCodec:
    """JSON records in, JSON predictions and byte-identical dead letters out.

    With a cipher, what is encrypted in a record is opened first, and a dead letter's value is encrypted whole: it may
    be no JSON, or have a person's words under a name that is misspelt.
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
        self._validate: Callable[[bytes], Any] = worker.event.__pydantic_validator__.validate_json
        within = _within_limits(self._validate)
        self._read = derive.decoder(worker.event) or derive.Decoder(within, within)
        self._cipher = cipher
        self._features = features
        if cipher is not None:
            careful = _opening(cipher, self._read.careful)  # what was opened may be longer than it looked
            self._read = derive.Decoder(careful, careful)
            self._validate = _opening(cipher, self._validate)
        self._fields = pii.field_names(worker.event)
        self._target = worker.target
        self._dead_letters = dead_letters(worker.source)
        self._identity = identity
        self._clock = clock
        self._bytes_max = bytes_max
        self._encode = msgspec.json.Encoder().encode
        self._forms: dict[int, bytes] = {}

    def decode_many(self, items: Sequence[Item]) -> list[tuple[Item, Rejected]]:
        """Fill in each item's `event`; those that have none, and why."""
        (plain, careful), bytes_max = self._read, self._bytes_max
        nested, doubtful = [], []
        for item in items:
            record = item.record
            value = record.value
            if value is not None and record.key and len(value) <= bytes_max:
                try:
                    if len(value) > WHOLE_MAX or not value.isascii():
                        item.event = careful(value)
                    elif LIST in value or value.rfind(TABLE) > 0:
                        nested.append((item, value))  # how deep is quicker told of all together
                    else:
                        item.event = plain(value)
                    continue
                except Exception:  # noqa: S110 - pydantic has the last word, below
                    pass
            doubtful.append(item)
        for (item, value), flat in zip(nested, shallow([value for _, value in nested]), strict=True):
            try:
                item.event = plain(value) if flat else careful(value)
            except Exception:
                doubtful.append(item)
        return [(item, rejected) for item in doubtful if (rejected := self._decode(item))]

    def encode_many(self, items: Sequence[Item]) -> list[Message]:
        """The messages of settled items, in order; a skipped one has none."""
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
                # A long key stands in it twice. The broker would refuse it, and its partition would never move again.
                outcome = item.outcome = Rejected(Reason.ANSWER_TOO_LARGE, "key and answer are too large", "Reject")
            if isinstance(outcome, Rejected):
                messages.append(self._dead_letter(record, outcome))
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
            event = self._validate(record.value)
        except ValidationError as error:
            return self._invalid(error, record.value)
        except Reject as error:
            return Rejected(error.reason, error.message, type(error).__name__)
        except Exception as error:  # a validator of the event's model raised what pydantic does not catch
            name = type(error).__name__
            return Rejected(Reason.INVALID, f"the event's model raised {name}", name)
        value = record.value if self._cipher is None else self._cipher.open(record.value)
        if limit := exceeded(value, event):
            return Rejected(*limit, "Reject")
        item.event = event
        return None

    def _invalid(self, error: ValidationError, value: bytes) -> Rejected:
        if self._cipher is None and encryption.holds_sealed(value):
            return Rejected(Reason.NOT_DECRYPTED, "it is encrypted: set encryption.keys_file", "Reject")
        if self._cipher is not None and encryption.holds_sealed(self._cipher.open(value)):
            return Rejected(Reason.NOT_DECRYPTED, "a field is encrypted that is not tagged as personal data", "Reject")
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        reason = Reason.NOT_JSON if first["type"] == "json_invalid" else Reason.INVALID
        if "recursion limit" in first["msg"]:
            reason = Reason.TOO_DEEP
        return Rejected(reason, pii.described(error, self._fields), type(error).__name__)

    def _form(self, record: Record) -> bytes:
        """`schemas.Prediction` of this partition, with places for what differs between its records: a struct with
        all of it took twice the time. `tests/unit/test_codec.py` holds it to the schema."""
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
            # The dead letter would be refused and block its partition for ever: send where the record is
            # instead, and its digest to know it by.
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


def _within_limits(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def within(value: bytes) -> Any:
        event = read(value)
        if exceeded(value, event):
            raise ValueError("beyond a limit")  # which one, is found out again when it is told
        return event

    return within


def _opening(cipher: Cipher, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    return lambda value: read(cipher.open(value))


def _literal(text: bytes) -> bytes:
    """As it must stand in a form that is filled in by `%`."""
    return text.replace(b"%", b"%%")


NO_HEADERS: Headers = []


def _trace(headers_read: Headers) -> Headers:
    """What a prediction carries in headers: the trace alone, if it is one and no text. The rest is in the envelope,
    and three headers of their own made the client three times slower."""
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
