"""Bytes to events: JSON as pydantic validates it, within the limits, decrypted where it is encrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from schemas import Event
from streamer.errors import Reason, Reject
from streamer.privacy import encryption, pii
from streamer.privacy.encryption import Cipher
from streamer.records import Item, Lane, Record, Rejected
from streamer.wire import derive
from streamer.wire.derive import WHOLE_MAX
from streamer.wire.json_limits import LIST, TABLE, exceeded, shallow


class EventReader:
    """Reads records as events of one model. With a cipher, it first decrypts what is encrypted in a record."""

    def __init__(self, event: type[Event], bytes_max: int, cipher: Cipher | None = None) -> None:
        self._validate: Callable[[bytes], Any] = event.__pydantic_validator__.validate_json
        within = _within_limits(self._validate)
        self._read = derive.decoder(event) or derive.Decoder(within, within)
        self._cipher = cipher
        if cipher is not None:
            careful = _opening(cipher, self._read.careful)  # a decrypted value may be longer than the record
            self._read = derive.Decoder(careful, careful)
            self._validate = _opening(cipher, self._validate)
        self._fields = pii.field_names(event)
        self._bytes_max = bytes_max

    def decode_many(self, items: Sequence[Item]) -> list[tuple[Item, Rejected]]:
        """Fill in each item's `event`. Returns the items that have none, each with the reason."""
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
                        nested.append((item, value))  # the depth is found faster for all of them together
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

    def read(self, records: Iterable[Record]) -> list[tuple[Record, Any, Rejected | None]]:
        """Each record with its event, or with the reason why it has none: for readers beside the engine."""
        items = [Item(record, Lane(record.partition)) for record in records]
        rejected = {id(item): why for item, why in self.decode_many(items)}
        return [(item.record, item.event, rejected.get(id(item))) for item in items]

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
            return Rejected(Reason.NOT_DECRYPTED, "an encrypted field is not tagged as personal data", "Reject")
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        reason = Reason.NOT_JSON if first["type"] == "json_invalid" else Reason.INVALID
        if "recursion limit" in first["msg"]:
            reason = Reason.TOO_DEEP
        return Rejected(reason, pii.described(error, self._fields), type(error).__name__)


def _within_limits(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def within(value: bytes) -> Any:
        event = read(value)
        if exceeded(value, event):
            raise ValueError("beyond a limit")  # `_decode` then finds out which one
        return event

    return within


def _opening(cipher: Cipher, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    return lambda value: read(cipher.open(value))
