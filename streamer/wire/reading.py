"""Bytes to events: JSON as pydantic validates it, within the limits, decrypted where it is encrypted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError

from schemas import Event
from streamer.errors import Reason, Reject
from streamer.privacy import encryption, pii
from streamer.privacy.encryption import Cipher
from streamer.records import Record, Rejected
from streamer.wire import derive
from streamer.wire.derive import WHOLE_MAX
from streamer.wire.json_limits import exceeded


class EventReader:
    """Reads records as events of one model. With a cipher, it first decrypts what is encrypted in a record."""

    def __init__(self, event: type[Event], bytes_max: int, cipher: Cipher | None = None) -> None:
        self._validate: Callable[[bytes], Any] = event.__pydantic_validator__.validate_json
        within = _within_limits(self._validate)
        decoder = derive.decoder(event) or derive.Decoder(within, within)
        self._fastest, self._careful = decoder
        self._cipher = cipher
        if cipher is not None:
            # A decrypted value may be longer than the record.
            self._fastest = self._careful = _opening(cipher, decoder.careful)
            self._validate = _opening(cipher, self._validate)
        self._fields = pii.field_names(event)
        self._bytes_max = bytes_max

    def decode(
        self, keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> tuple[list[Any], dict[int, Rejected]]:
        """The event of each record, None where there is none; and the reasons for these, by place."""
        if None not in values and all(keys) and max(map(len, values), default=0) <= self._bytes_max:  # type: ignore[arg-type]
            return self._decode(values)  # type: ignore[arg-type]
        unfit = {at: why for at, why in enumerate(map(self._unfit, keys, values)) if why is not None}
        fit = [at for at in range(len(values)) if at not in unfit]
        found, rejected = self._decode([values[at] for at in fit])  # type: ignore[misc]
        events = [None] * len(values)
        for at, event in zip(fit, found, strict=True):
            events[at] = event
        return events, unfit | {fit[at]: why for at, why in rejected.items()}

    def _decode(self, values: Sequence[bytes]) -> tuple[list[Any], dict[int, Rejected]]:
        events: list[Any] = []
        rejected: dict[int, Rejected] = {}
        long = max(map(len, values), default=0) > WHOLE_MAX
        while len(events) < len(values):
            read = self._careful if long else self._fastest
            try:
                events.extend(map(read, islice(values, len(events), None)))  # keeps the events before a failure
            except Exception:
                event = self._doubtful(values[len(events)])
                if isinstance(event, Rejected):
                    rejected[len(events)], event = event, None
                events.append(event)
        return events, rejected

    def _doubtful(self, value: bytes) -> Any:
        """The event of a record that the fastest decoder refuses, or why it has none (a `Rejected`)."""
        try:
            event = self._careful(value)
        except Exception:
            return self._decide(value)
        self._fastest = self._careful  # this topic's events have fields that the model does not have
        return event

    def _unfit(self, key: bytes | None, value: bytes | None) -> Rejected | None:
        """Why a record is refused whatever its value says."""
        if key and value is not None and len(value) <= self._bytes_max:
            return None
        if value is None:
            return Rejected(Reason.TOMBSTONE, "the record has no value", "Reject")
        if not key:
            return Rejected(Reason.NO_KEY, "the record has no key, so it has no place in any order", "Reject")
        return Rejected(Reason.TOO_LARGE, f"the value has {len(value)} bytes", "Reject")

    def read(self, records: Sequence[Record]) -> list[tuple[Record, Any, Rejected | None]]:
        """Each record with its event, or with the reason why it has none: for readers beside the engine."""
        events, rejected = self.decode([record.key for record in records], [record.value for record in records])
        return [
            (record, event, rejected.get(at)) for at, (record, event) in enumerate(zip(records, events, strict=True))
        ]

    def _decide(self, value: bytes) -> Any:
        """The event of a record, or why it has none (a `Rejected`), as pydantic says."""
        try:
            event = self._validate(value)
        except ValidationError as error:
            return self._invalid(error, value)
        except Reject as error:
            return Rejected(error.reason, error.message, type(error).__name__)
        except Exception as error:  # a validator of the event's model raised what pydantic does not catch
            name = type(error).__name__
            return Rejected(Reason.INVALID, f"the event's model raised {name}", name)
        if limit := exceeded(value if self._cipher is None else self._cipher.open(value), event):
            return Rejected(*limit, "Reject")
        return event

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
            raise ValueError("beyond a limit")  # `_decide` then finds out which one
        return event

    return within


def _opening(cipher: Cipher, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    return lambda value: read(cipher.open(value))
