"""Messages of the client become columns: a call a column and slice, where a value object a record took most of the
time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from streamer.records import Headers
from streamer.slices import Slice


def by_partition(messages: Iterable[Any]) -> dict[int, list[Any]]:
    """The messages of each partition, in the order in which they came."""
    found: dict[int, list[Any]] = {}
    for message in messages:
        found.setdefault(message.partition(), []).append(message)
    return found


def columns(topic: str, partition: int, messages: Sequence[Any], position: int) -> Slice | None:
    """The records from a position on, in growing order; None when there are none. What was read before a rewind is
    left out."""
    offsets = [message.offset() for message in messages]
    if offsets[0] < position or offsets[-1] - offsets[0] != len(offsets) - 1:
        messages = list(_from(messages, position))
        offsets = [message.offset() for message in messages]
    if not offsets:
        return None
    headers = list(map(_headers, messages))
    return Slice(
        topic,
        partition,
        offsets,
        [message.key() for message in messages],
        [message.value() for message in messages],
        headers if any(headers) else None,
        [message.timestamp()[1] for message in messages],
    )


def _from(messages: Iterable[Any], position: int) -> Iterable[Any]:
    for message in messages:
        if message.offset() >= position:
            position = message.offset() + 1
            yield message


def _headers(message: Any) -> Headers | None:
    try:
        return message.headers()  # type: ignore[no-any-return]  # once only: after a failure it returns half of them
    except (SystemError, UnicodeDecodeError):  # a name is not text: treated as no headers
        return None
