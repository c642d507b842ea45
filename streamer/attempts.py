"""Records that kill the process: a segmentation fault, the kernel's out-of-memory killer and a hang reach no `except`.

What is on the device is marked on local disk first. A process that finds the marks of a dead predecessor remembers
them; records that were on the device at two deaths run alone from then on, and one that is alone on it at two more
becomes a dead letter. Message queues count deliveries for this end; Kafka does not, so the replica does.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from streamer.errors import Reason
from streamer.records import Item, Rejected

log = structlog.get_logger(__name__)

DEATHS_TILL_ALONE = 2
DEATHS_ALONE_MAX = 2
FILE_BYTES = 1 << 16
SPANS_MAX = 64
"""Spans of former deaths that are remembered; the oldest are forgotten first."""


class Span(msgspec.Struct, array_like=True):
    """Offsets `first` to `last` of a partition were on the device at `deaths` deaths; `alone`: nothing else was."""

    partition: int
    first: int
    last: int
    alone: bool = False
    deaths: int = 0

    def holds(self, partition: int, offset: int) -> bool:
        """Whether it speaks of this record."""
        return partition == self.partition and self.first <= offset <= self.last


class Marks(msgspec.Struct, array_like=True):
    """What is on the device now, a list a batch, and what was when predecessors died."""

    out: list[list[Span]] = msgspec.field(default_factory=list)
    found: list[Span] = msgspec.field(default_factory=list)


class Store(Protocol):
    """Where marks outlive the process."""

    def read(self) -> bytes:
        """What was written last; empty when nothing was, or when a death has cut it short."""

    def write(self, content: bytes) -> None:
        """Replace it. Never raises, and costs microseconds."""


class MemoryStore:
    """Marks that end with the process: for tests, and where no file can be had."""

    def __init__(self) -> None:
        self._content = b""

    def read(self) -> bytes:
        return self._content

    def write(self, content: bytes) -> None:
        self._content = content


class FileStore:
    """Marks in a mapped file: written at the cost of a copy, kept by the kernel whatever kills the process."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            OSError: it cannot be had; a full disk shows here, not later.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(handle, 0, FILE_BYTES)  # else a disk that fills up kills us at a write, by SIGBUS
            self._map = mmap.mmap(handle, FILE_BYTES)
        finally:
            os.close(handle)

    def read(self) -> bytes:
        size, checksum = int.from_bytes(self._map[:4], "big"), int.from_bytes(self._map[4:8], "big")
        content = self._map[8 : 8 + min(size, FILE_BYTES)]
        return content if zlib.crc32(content) == checksum else b""

    def write(self, content: bytes) -> None:
        if len(content) > FILE_BYTES - 8:  # thousands of partitions in one batch
            content = b""
        head = len(content).to_bytes(4, "big") + zlib.crc32(content).to_bytes(4, "big")
        self._map[: 8 + len(content)] = head + content


class Attempts:
    """Marks what is on the device, and knows which records are under suspicion."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._encode = msgspec.msgpack.Encoder().encode
        self._out: list[list[Span]] = []
        self._found = _remembered(store.read())
        self.save()

    def save(self) -> None:
        """Write down what is on the device now."""
        self._store.write(self._encode(Marks(self._out, self._found)))

    def begin(self, items: Sequence[Item], alone: bool) -> None:
        """These go to the device, behind what is there already."""
        spans = _spans(items)
        if alone:
            spans = [Span(span.partition, span.first, span.last, alone) for span in spans]
        self._out.append(spans)
        self.save()

    def end(self) -> None:
        """The first that went has come back."""
        del self._out[0]
        self.save()

    def clear(self) -> None:
        """The process ends for a reason that is not on the device."""
        self._out = []
        self.save()

    def condemned(self, items: Iterable[Item]) -> list[tuple[Item, Rejected]]:
        """Those that have killed alone, with what becomes of them."""
        guilty = [span for span in self._found if span.alone and span.deaths >= DEATHS_ALONE_MAX]
        if not guilty:
            return []
        said = f"the process died {DEATHS_ALONE_MAX} times with this record alone on the device"
        outcome = Rejected(Reason.CRASH, said, "Crash")
        return [(item, outcome) for item in items if _held(guilty, item)]

    def suspects(self, items: Iterable[Item]) -> list[Item]:
        """Those that must run alone."""
        under = [span for span in self._found if span.alone or span.deaths >= DEATHS_TILL_ALONE]
        return [item for item in items if _held(under, item)] if under else []

    def passed(self, items: Iterable[Item]) -> None:
        """These are answered for good: what is before them is no longer under suspicion."""
        if not self._found:
            return
        ends: dict[int, int] = {}
        for item in items:
            ends[item.record.partition] = item.record.offset
        left = [span for span in self._found if ends.get(span.partition, -1) < span.last]
        if len(left) < len(self._found):
            self._found = left
            self.save()


def _spans(items: Iterable[Item]) -> list[Span]:
    """First and last offset of each partition, in no order of offsets: texts are sorted by length."""
    spans: dict[int, Span] = {}
    for item in items:
        record = item.record
        offset = record.offset
        span = spans.get(record.partition)
        if span is None:
            spans[record.partition] = Span(record.partition, offset, offset)
        elif offset > span.last:
            span.last = offset
        elif offset < span.first:
            span.first = offset
    return list(spans.values())


def _held(spans: Iterable[Span], item: Item) -> bool:
    record = item.record
    return any(span.holds(record.partition, record.offset) for span in spans)


def _remembered(content: bytes) -> list[Span]:
    """What is known of former deaths, the last one counted in."""
    try:
        marks = msgspec.msgpack.decode(content, type=Marks) if content else Marks()
    except msgspec.MsgspecError:  # of another version of ours
        return []
    found = marks.found
    for span in (span for batch in marks.out for span in batch):
        found = _counted(found, span)
    if any(marks.out):
        log.warning(
            "the last process died with records on the device",
            spans=[f"{span.partition}:{span.first}-{span.last}" for span in found],
            deaths=max(span.deaths for span in found),
        )
    return found[-SPANS_MAX:]


def _counted(found: list[Span], span: Span) -> list[Span]:
    """One more death. The culprit was on the device at each, so it is where the spans overlap."""
    others, deaths = [], 1
    for old in found:
        first, last = max(old.first, span.first), min(old.last, span.last)
        if (old.partition, old.alone) == (span.partition, span.alone) and first <= last:
            span = Span(span.partition, first, last, span.alone)
            deaths = max(deaths, old.deaths + 1)
        else:
            others.append(old)
    return [*others, Span(span.partition, span.first, span.last, span.alone, deaths)]
