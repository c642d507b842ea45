"""Reads a broker's log files: what no client is shown, which transaction a record belongs to and how that ended.

The format is that of Kafka's `DefaultRecordBatch` (version 2), `GroupMetadataKey`, `OffsetCommitValue` and
`TransactionLogValue` (version 1). Files are read while the broker writes: a batch that is not whole yet is the end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BATCH = struct.Struct(">qiibIhiqqqhii")  # up to the count of records: 61 bytes
TRANSACTIONAL, CONTROL, CODEC = 0x10, 0x20, 0x07
MARKERS = {0: "abort", 1: "commit"}


class Batch(NamedTuple):
    """One batch of a partition's log. `marker` says how the transaction of this producer ended, where it did."""

    first: int
    last: int
    producer_id: int
    transactional: bool
    marker: str
    records: bytes
    count: int


class Pair(NamedTuple):
    """Key and value of a record; a value that is None deletes."""

    key: bytes | None
    value: bytes | None


def batches(folder: Path) -> Iterator[Batch]:
    """Every batch of a partition, in order; `folder` is the partition's."""
    for path in sorted(folder.glob("*.log")):
        data, at = path.read_bytes(), 0
        while at + BATCH.size <= len(data):
            first, length, *_ = BATCH.unpack_from(data, at)
            end = at + 12 + length
            if length <= 0 or end > len(data):
                break  # preallocated, or not whole yet
            yield _batch(data, at, end, first)
            at = end


def _batch(data: bytes, at: int, end: int, first: int) -> Batch:
    _, _, _, magic, _, attributes, last, _, _, producer_id, _, _, count = BATCH.unpack_from(data, at)
    if magic != 2 or attributes & CODEC:
        raise ValueError(
            f"a batch of version {magic}, codec {attributes & CODEC}: only plain ones of version 2 are read"
        )
    body = data[at + BATCH.size : end]
    marker = ""
    if attributes & CONTROL:
        (pair,) = pairs(body, 1)
        _, kind = struct.unpack_from(">hh", pair.key or b"")
        marker = MARKERS.get(kind, "")
    return Batch(first, first + last, producer_id, bool(attributes & TRANSACTIONAL), marker, body, count)


def pairs(body: bytes, count: int) -> Iterator[Pair]:
    """The records of a batch."""
    at = 0
    for _ in range(count):
        length, at = varint(body, at)
        end = at + length
        at += 1  # attributes
        _, at = varint(body, at)  # timestamp
        _, at = varint(body, at)  # offset
        key, at = _blob(body, at)
        value, at = _blob(body, at)
        yield Pair(key, value)
        at = end


def _blob(body: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = varint(body, at)
    return (None, at) if length < 0 else (body[at : at + length], at + length)


def varint(body: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where the next thing begins."""
    number, at = unsigned(body, at)
    return (number >> 1) ^ -(number & 1), at


def unsigned(body: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where the next thing begins."""
    number = shift = 0
    while True:
        byte = body[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


class Fields:
    """Takes Kafka's fields off a blob, one after the other."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def int8(self) -> int:
        return self._number(">b")

    def int16(self) -> int:
        return self._number(">h")

    def int32(self) -> int:
        return self._number(">i")

    def int64(self) -> int:
        return self._number(">q")

    def text(self) -> str:
        return self._take(self.int16())

    def compact_text(self) -> str:
        return self._take(self.compact_length())

    def compact_length(self) -> int:
        """Of a text or an array; -1 where there is none."""
        length, self._at = unsigned(self._blob, self._at)
        return length - 1

    def skip_tags(self) -> None:
        """Over fields that only newer readers know."""
        count, self._at = unsigned(self._blob, self._at)
        for _ in range(count):
            _, self._at = unsigned(self._blob, self._at)
            length, self._at = unsigned(self._blob, self._at)
            self._at += length

    def _number(self, form: str) -> int:
        (number,) = struct.unpack_from(form, self._blob, self._at)
        self._at += struct.calcsize(form)
        return int(number)

    def _take(self, length: int) -> str:
        text = self._blob[self._at : self._at + length].decode()
        self._at += length
        return text
