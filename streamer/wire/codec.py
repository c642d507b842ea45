"""Bytes to events, outcomes to messages: JSON as pydantic validates it, and an envelope around each answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import msgspec

from schemas import dead_letters
from streamer.clock import Clock
from streamer.errors import Reason
from streamer.features.log import FeatureLog
from streamer.privacy.encryption import Cipher
from streamer.records import NO_HEADERS, Cached, Headers, Messages, Rare, Record, Rejected
from streamer.slices import Row, Rows, Slice
from streamer.wire import headers
from streamer.wire.reading import EventReader
from streamer.worker import Worker

ENVELOPE_BYTES_MAX = 2_048
"""The envelope and the headers of any message take less than this, beside its answer."""

UNESCAPED = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
"""The ASCII characters that JSON writes as they are."""


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
        self._forms: dict[int, Sequence[bytes]] = {}

    def decode(self, rows: Rows) -> list[tuple[Row, Rejected]]:
        """Fill in the events of these records. Returns the records that have none, each with the reason."""
        columns = rows.columns
        events, rejected = self._reader.decode(rows.of(columns.keys), rows.of(columns.values))
        rows.put(columns.events, events)
        return [(Row(columns, rows.at[at]), why) for at, why in rejected.items()]

    def encode(self, rows: Rows) -> list[Messages]:
        """The messages of settled records, in order by topic; a skipped one has none."""
        columns, rare = rows.columns, rows.rare()
        messages = []
        if len(answered := _answered(rows, rare)):
            predictions = self._predictions(answered, rare)
            large = self._too_large(predictions)
            for at in large:
                # A long key is in the message twice. The broker would refuse it, and its partition would never move
                # again.
                rejected = Rejected(Reason.ANSWER_TOO_LARGE, "key and answer are too large", "Reject")
                columns.rare[answered.at[at]] = rare[answered.at[at]] = rejected
            if large:
                answered = _answered(rows, rare)
                predictions = self._predictions(answered, rare)
            messages.append(predictions)
            if self._features is not None and columns.as_of:
                messages += [run for row in answered if (run := self._features.of(row)) is not None]
        for at, outcome in sorted(rare.items()):
            if isinstance(outcome, Rejected):
                messages.append(self._dead_letter(columns.record(at), outcome))
        return messages

    def _predictions(self, rows: Rows, rare: Mapping[int, Rare]) -> Messages:
        """The predictions of records that have an answer."""
        columns = rows.columns
        answers: Sequence[bytes | None] = rows.of(columns.answers)
        caches: Iterable[bytes] = repeat(b"miss")
        if rare:
            given = [rare.get(at) for at in rows.at]
            answers = [one.answer if isinstance(one, Cached) else own for one, own in zip(given, answers, strict=True)]
            caches = [b"miss" if one is None else b"hit" for one in given]
        offsets, keys = list(map(b"%d".__mod__, rows.of(columns.offsets))), rows.of(columns.keys)
        ids = self._escaped([event.event_id.encode() for event in rows.of(columns.events)])
        produced_at = _iso(self._clock.time_ms()).encode()
        filled = (offsets, ids, self._escaped(keys), offsets, repeat(produced_at), caches, answers)
        values = _woven(self._form(columns), filled)
        traces = None
        if columns.headers:
            traces = [_trace(said) if said else NO_HEADERS for said in rows.of(columns.headers)]
        return Messages(self._target, columns.partition, keys, values, traces if traces and any(traces) else None)

    def _too_large(self, predictions: Messages) -> list[int]:
        """The places of those that the broker would refuse."""
        keys, values, bytes_max = predictions.keys, predictions.values, self._bytes_max
        if not predictions.headers and _longest(keys) + _longest(values) <= bytes_max:
            return []
        return [
            at
            for at, one in enumerate(predictions)
            if len(one.key or b"") + len(one.value or b"") + _size(one.headers) > bytes_max
        ]

    def _escaped(self, texts: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """Texts as they stand between the quotes of JSON. What has an answer has a key, so none is None."""
        joined = b"\n".join(texts)  # type: ignore[arg-type]
        if joined.isascii() and len(joined.translate(None, UNESCAPED)) == len(texts) - 1:
            return texts  # nothing is left but the line breaks between them
        return [self._encode((text or b"").decode(errors="backslashreplace"))[1:-1] for text in texts]

    def _form(self, columns: Slice) -> Sequence[bytes]:
        """`schemas.Prediction` of this partition: the texts around what differs between its records. A struct with all
        of it took three times as long. `tests/unit/wire/test_codec.py` holds the form to the schema."""
        if (known := self._forms.get(columns.partition)) is not None:
            return known
        identity = self._identity
        prediction_id = self._encode(f"{identity.worker}/{columns.topic}/{columns.partition}/")[1:-1]
        named = self._encode(
            {
                "worker": identity.worker,
                "model_version": identity.model_version,
                "model_digest": identity.model_digest,
                "source": {"topic": columns.topic, "partition": columns.partition},
            }
        )
        form = self._forms[columns.partition] = [
            b'{"prediction_id":"' + prediction_id,
            b'","event_id":"',
            b'","key":"',
            b'",' + named[1:-2] + b',"offset":',
            b'},"produced_at":"',
            b'","cache":"',
            b'","answer":',
            b"}",
        ]
        return form

    def _dead_letter(self, record: Record, outcome: Rejected) -> Messages:
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
        sent = original + [(name, text.encode()) for name, text in said]
        return Messages(self._dead_letters, record.partition, [key], [value], [sent])


def _answered(rows: Rows, rare: Mapping[int, Rare]) -> Rows:
    """Those of settled records that have an answer, be it from the cache."""
    if not rare:
        return rows
    return Rows(rows.columns, [at for at in rows.at if at not in rare or isinstance(rare[at], Cached)])


def _woven(fixed: Sequence[bytes], columns: Iterable[Iterable[bytes | None]]) -> list[bytes]:
    """For each record the fixed texts, and between them what the columns hold for it."""
    *before, last = map(repeat, fixed)
    woven = [part for pair in zip(before, columns, strict=True) for part in pair]
    return list(map(b"".join, zip(*woven, last, strict=False)))  # the fixed have no end


def _trace(headers_read: Headers) -> Headers:
    """The headers of a prediction: the trace alone, and only if it has a trace's form. The rest is in the envelope;
    three headers for it made the client three times slower."""
    return [
        (name, value)
        for name, value in headers_read
        if name == headers.TRACEPARENT and value is not None and headers.TRACE.fullmatch(value)
    ]


def _longest(column: Sequence[bytes | None]) -> int:
    return max(map(len, column))  # type: ignore[arg-type]  # a prediction has a key and a value


def _size(headers_sent: Headers) -> int:
    return sum(len(value or b"") for _, value in headers_sent)


def _number(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() and len(text) < 6 else 0


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
