"""Slices of few records, for tests that look at one record at a time."""

from __future__ import annotations

from collections.abc import Iterable

from schemas import Event
from streamer.ports import Codec
from streamer.records import Headers, Message, Messages, Record
from streamer.slices import Row, Rows, Slice, sliced


def row(
    offset: int = 0,
    partition: int = 0,
    *,
    topic: str = "t",
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: Headers | None = None,
    timestamp_ms: int = 0,
) -> Row:
    """A record alone in its slice."""
    (columns,) = sliced([Record(topic, partition, offset, key, value, headers, timestamp_ms)])
    return Row(columns, 0)


def rows(*offsets: int, partition: int = 0, value: bytes = b"v") -> Rows:
    """Records that were read together."""
    (columns,) = sliced(Record("t", partition, offset, b"k", value, None, 0) for offset in offsets)
    return columns.rows()


def read_by(codec: Codec, one: Row) -> Row:
    """A record after it was decoded, or refused."""
    for refused, why in codec.decode(one.alone()):
        refused.settle(why)
    return one


def row_of(record: Record, event: Event) -> Row:
    """A record whose event is known."""
    (columns,) = sliced([record])
    columns.events[0] = event
    return Row(columns, 0)


def records(slices: Iterable[Slice]) -> list[Record]:
    """The records of slices, one after the other."""
    return [columns.record(at) for columns in slices for at in range(len(columns))]


def offsets(batch: Iterable[Rows]) -> list[int]:
    """The offsets of records, in their order."""
    return [offset for some in batch for offset in some.of(some.columns.offsets)]


def run(topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> Messages:
    """One message to publish, as a sink takes it."""
    return Messages(topic, partition, [key], [value], [headers] if headers else None)


def messages(runs: Iterable[Messages]) -> list[Message]:
    """The messages of runs, one after the other."""
    return [message for one in runs for message in one]
