"""How a record is shown: without personal data, or whole when that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from schemas import (
    ARTICLE_FORECASTS,
    EVENTS,
    LEAD_SCORES,
    PURCHASE_PROPENSITIES,
    TICKET_ROUTES,
    ArticleForecast,
    Event,
    LeadScore,
    Prediction,
    PurchasePropensity,
    TicketRoute,
    dead_letters,
)
from schemas.pii import HIDDEN, tags
from streamer.errors import Reject
from streamer.privacy import encryption, pii
from streamer.privacy.encryption import Cipher
from streamer.wire import headers

KNOWN: dict[str, type[BaseModel]] = {
    **{event.topic: event for event in EVENTS.values()},
    **{dead_letters(event.topic): event for event in EVENTS.values()},
    LEAD_SCORES: Prediction[LeadScore],
    TICKET_ROUTES: Prediction[TicketRoute],
    PURCHASE_PROPENSITIES: Prediction[PurchasePropensity],
    ARTICLE_FORECASTS: Prediction[ArticleForecast],
}
OURS = headers.ERRORS | {headers.SOURCE, headers.CONTENT_TYPE}
"""Headers that hold nothing of an event."""


class View:
    """Shows the records of a topic, opened where there are keys; `hidden` is the model whose tags are hidden."""

    def __init__(self, cipher: Cipher | None = None, hidden: type[BaseModel] | None = None) -> None:
        self._cipher = cipher
        self._hidden = [tags(hidden)] if hidden and tags(hidden).anywhere() else []

    def key(self, raw: bytes | None) -> str | None:
        """When the model has personal data, the key is personal data too: the customer, the lead."""
        return HIDDEN if self._hidden and raw is not None else text(raw)

    def headers(self, found: Sequence[tuple[str, bytes | None]] | None) -> dict[str, str | None]:
        """All headers. Those that a producer may have written show only their names when personal data is hidden."""
        return {
            name: HIDDEN if self._hidden and not _is_ours(name, value) else text(value) for name, value in found or ()
        }

    def value(self, raw: bytes | None) -> Any:
        """The value as JSON if it parses as JSON, else as text."""
        if raw is None:
            return None
        if self._cipher is not None:
            with suppress(Reject):  # it is shown encrypted, as it is
                raw = self._cipher.open(raw)
        try:
            parsed = json.loads(raw)
        except (UnicodeDecodeError, ValueError, RecursionError):
            return HIDDEN if self._hidden else text(raw)
        if not self._hidden:
            return parsed
        return pii.shown(parsed, self._hidden) if isinstance(parsed, dict) else HIDDEN


def masked(topic: str, keys_file: Path | None) -> View:
    """A view without personal data, as far as the models of our topics and of the installed workers tag it."""
    model = _model(topic)
    return View(_cipher(topic, model, keys_file), model)


def whole(topic: str, keys_file: Path | None) -> View:
    """A view of everything, with encrypted values opened.

    Raises:
        BadConfig: the keys cannot be read.
    """
    return View(_cipher(topic, _model(topic), keys_file))


def text(raw: bytes | None) -> str | None:
    """Bytes for people."""
    return None if raw is None else raw.decode(errors="replace")


def _cipher(topic: str, model: type[BaseModel] | None, keys_file: Path | None) -> Cipher | None:
    if model is None or not issubclass(model, Event):
        return None
    source = topic.removeprefix(dead_letters(""))
    return encryption.cipher(keys_file, model, source)


def _model(topic: str) -> type[BaseModel] | None:
    if topic in KNOWN:
        return KNOWN[topic]
    from streamer import discovery  # it imports torch, and our own topics need not wait for it

    for worker in map(discovery.find, discovery.names()):
        if topic in (worker.source, dead_letters(worker.source)):
            return worker.event
        if topic == worker.target:
            return Prediction[worker.answer]  # type: ignore[name-defined]
    return None


def _is_ours(name: str, value: bytes | None) -> bool:
    return name in OURS or (name == headers.TRACEPARENT and bool(headers.TRACE.fullmatch(value or b"")))
