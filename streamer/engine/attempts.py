"""Records that kill the process: a segmentation fault, the kernel's out-of-memory killer and a hang reach no `except`.

Before records go to the device, marks on local disk name them. A process that finds the marks of a dead predecessor
remembers them. Records that were on the device at two deaths run alone from then on; a record that is alone there at
two more deaths becomes a dead letter. Message queues count deliveries for this purpose; Kafka does not, so the replica
does."""

from __future__ import annotations

import fcntl
import mmap
import os
import zlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from streamer.errors import Reason
from streamer.records import Rejected
from streamer.slices import Row, Rows

log = structlog.get_logger(__name__)

DEATHS_TILL_ALONE = 2
DEATHS_ALONE_MAX = 2
FILE_BYTES = 1 << 21
FOUND_MAX = 50_000
"""How many records are remembered: two batches of any sensible size, for a few deaths."""


class OnDevice(msgspec.Struct, array_like=True):
    """The records of one batch, as partitions and offsets; `alone`: a suspect, with nothing else on the device."""

    records: list[tuple[int, list[int]]]
    alone: bool

    def places(self) -> list[tuple[int, int]]:
        """Partition and offset of each."""
        return [(partition, offset) for partition, offsets in self.records for offset in offsets]


class Deaths(msgspec.Struct, array_like=True):
    """A record, and how many processes died while it was on the device, and while it was alone there."""

    partition: int
    offset: int
    together: int = 0
    alone: int = 0


class Marks(msgspec.Struct, array_like=True):
    """What is on the device now, and what was when predecessors died."""

    out: list[OnDevice]
    found: list[Deaths]


class Written(msgspec.Struct, array_like=True):
    """The same as bytes. What was found changes seldom, so it is encoded once."""

    out: list[OnDevice]
    found: msgspec.Raw


class Store(Protocol):
    """Where marks are kept, so that they outlive the process."""

    def read(self) -> bytes:
        """What was written last; empty when there is nothing, or when a death cut it short."""

    def write(self, content: bytes) -> None:
        """Replace it. Never raises, and costs microseconds."""

    def reading(self, on: bool) -> None:
        """Whether the owner thread works on records that are not on the device yet: a death then is not the
        device's."""

    def was_reading(self) -> bool:
        """The last value of `reading`."""


class MemoryStore:
    """Marks that end with the process: for tests, and where no file can be made."""

    def __init__(self) -> None:
        self._content = b""
        self._reading = False

    def read(self) -> bytes:
        return self._content

    def write(self, content: bytes) -> None:
        self._content = content

    def reading(self, on: bool) -> None:
        self._reading = on

    def was_reading(self) -> bool:
        return self._reading


class FileStore:
    """Marks in a mapped file: written at the cost of a copy, kept by the kernel whatever kills the process."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            OSError: it cannot be made, or another process holds it; a full disk shows here, not later.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(handle, 0, FILE_BYTES)  # else a disk that fills up kills us at a write, by SIGBUS
            self._map = mmap.mmap(handle, FILE_BYTES)  # has a handle of its own, which keeps the lock
        finally:
            os.close(handle)

    def read(self) -> bytes:
        size, checksum = int.from_bytes(self._map[:4], "big"), int.from_bytes(self._map[4:8], "big")
        content = self._map[8 : 8 + min(size, FILE_BYTES)]
        return content if zlib.crc32(content) == checksum else b""

    def write(self, content: bytes) -> None:
        if len(content) > FILE_BYTES - 9:  # batches of a hundred thousand
            content = b""
        head = len(content).to_bytes(4, "big") + zlib.crc32(content).to_bytes(4, "big")
        self._map[: 8 + len(content)] = head + content

    def reading(self, on: bool) -> None:
        self._map[-1] = on

    def was_reading(self) -> bool:
        return bool(self._map[-1])


class Attempts:
    """Marks what is on the device, and knows which records are suspects."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._encode = msgspec.msgpack.Encoder().encode
        self._out: list[OnDevice] = []
        self._found = _remembered(store.read(), store.was_reading())
        self._keep()
        store.reading(False)

    def begin(self, batch: Sequence[Rows], alone: bool) -> None:
        """These records go to the device, behind those that are there already."""
        records = [(rows.columns.partition, list(rows.of(rows.columns.offsets))) for rows in batch]
        self._out.append(OnDevice(records, alone))
        self._save()

    def end(self) -> None:
        """The oldest batch on the device has come back."""
        del self._out[0]
        self._save()

    def clear(self) -> None:
        """Drop the marks: the process ends for a reason that is not on the device."""
        self._out = []
        self._save()

    def suspects(self, rows: Rows) -> list[Row]:
        """The records among these that must run alone."""
        return [row for row, deaths in self._known(rows) if deaths.alone or deaths.together >= DEATHS_TILL_ALONE]

    def condemned(self, rows: Rows) -> list[tuple[Row, Rejected]]:
        """The records among these that killed a process while alone, with their rejection."""
        said = f"the process died {DEATHS_ALONE_MAX} times with this record alone on the device"
        outcome = Rejected(Reason.CRASH, said, "Crash")
        return [(row, outcome) for row, deaths in self._known(rows) if deaths.alone >= DEATHS_ALONE_MAX]

    def passed(self, durable: Iterable[Rows]) -> None:
        """These are answered for good: they and the records before them are no suspects any more."""
        if not self._found:
            return
        ends = {rows.columns.partition: rows.position for rows in durable}
        if ends.keys() & self._partitions:
            self._found = {
                place: deaths for place, deaths in self._found.items() if deaths.offset >= ends.get(deaths.partition, 0)
            }
            self._keep()

    def given_up(self, partitions: Iterable[int]) -> None:
        """These partitions went to another replica, with every record that was read of them answered. What is known of
        them is forgotten: it must not count against the records at these offsets when the partitions come back."""
        if gone := self._partitions.intersection(partitions):
            self._found = {place: deaths for place, deaths in self._found.items() if deaths.partition not in gone}
            self._keep()

    def reading(self, on: bool) -> None:
        """Note whether the owner thread works on records not yet on the device: a death then is not the device's."""
        self._store.reading(on)

    def _known(self, rows: Rows) -> list[tuple[Row, Deaths]]:
        if rows.columns.partition not in self._partitions:
            return []
        places = ((row, (row.partition, row.offset)) for row in rows)
        return [(row, self._found[place]) for row, place in places if place in self._found]

    def _keep(self) -> None:
        self._partitions = {partition for partition, _ in self._found}
        self._kept = msgspec.Raw(self._encode(list(self._found.values())))
        self._save()

    def _save(self) -> None:
        self._store.write(self._encode(Written(self._out, self._kept)))


def _remembered(content: bytes, was_reading: bool) -> dict[tuple[int, int], Deaths]:
    """What is known of former deaths. The last one counts unless the device had no part in it."""
    try:
        marks = msgspec.msgpack.decode(content, type=Marks) if content else Marks([], [])
    except msgspec.MsgspecError:  # of another version of ours
        return {}
    found = {(deaths.partition, deaths.offset): deaths for deaths in marks.found}
    out = [] if was_reading else marks.out
    for batch in out:
        for place in batch.places():
            deaths = found.pop(place, None) or Deaths(*place)  # to the end: the oldest are forgotten first
            found[place] = Deaths(*place, deaths.together + (not batch.alone), deaths.alone + batch.alone)
    if out:
        log.warning(
            "the last process died with records on the device",
            records=sum(len(batch.places()) for batch in out),
            run_alone_now=sum(d.alone > 0 or d.together >= DEATHS_TILL_ALONE for d in found.values()),
            dead_letters_now=[f"{d.partition}/{d.offset}" for d in found.values() if d.alone >= DEATHS_ALONE_MAX],
        )
    return dict(islice(found.items(), max(0, len(found) - FOUND_MAX), None))
