"""A warning that comes again and again is told once, then counted: a broken producer or an absent broker must not flood
the log."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

EVERY_S = 10.0
KINDS_MAX = 1_000
"""So many kinds are counted; those beyond are told each time."""
NUMBERS = re.compile(r"\d+")
"""What differs between two tellings of one thing: times, ports, counts."""


class Again:
    """How often a kind of line came since it was last told, and the latest of these lines."""

    __slots__ = ("count", "line")

    def __init__(self) -> None:
        self.count = 0
        self.line: logging.LogRecord | None = None


class CountingHandler(logging.StreamHandler[TextIO]):
    """Writes the first warning or error of a kind at once, in full; then, each ten seconds, the latest of the kind with
    the `count` of all since. What is less than a warning, or has a stack, is always written.

    A kind is what a line says but for its numbers; of lines with a `reason` (dead letters), their reason and partition.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        super().__init__(sys.stderr)
        self._every_s = every_s
        self._again: dict[object, Again] = {}
        self._timer: threading.Timer | None = None
        self._ends = False
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            news = self._is_news(record)
        except Exception:  # a line whose arguments do not fit: writing it says so
            news = True
        if news:
            super().emit(record)

    def _is_news(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or record.exc_info or _said(record).get("exc_info"):
            return True
        if self._process != os.getpid():  # forked: its parent counts for itself, and no timer runs here
            self._process, self._timer, self._again = os.getpid(), None, {}
        if self._timer is None:
            self._start()
        if self._timer is None:
            return True
        kind = kind_of(record)
        again = self._again.get(kind)
        if again is None:
            if len(self._again) < KINDS_MAX:
                self._again[kind] = Again()
            return True
        again.count += _count(record)
        again.line = record
        return False

    def tell(self) -> None:
        """Write what was counted, and forget the kinds of which nothing came."""
        with self.lock or threading.RLock():
            self._timer = None
            self._again = {kind: again for kind, again in self._again.items() if again.line is not None}
            for again in self._again.values():
                if again.line is not None:
                    super().emit(_counted(again.line, again.count))
                again.count, again.line = 0, None
            if self._again:
                self._start()

    def close(self) -> None:
        """Write what was counted: the process ends."""
        timer, self._ends = self._timer, True
        if timer is not None:
            timer.cancel()
            self.tell()
        super().close()

    def _start(self) -> None:
        if self._ends:
            return  # no thread may start any more
        self._timer = threading.Timer(self._every_s, self.tell)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # no thread is to be had: then every line is written
            self._timer = None


def kind_of(record: logging.LogRecord) -> object:
    """What two lines have in common that say the same."""
    said = _said(record)
    if "reason" in said:
        return record.name, said.get("event"), said["reason"], said.get("partition")
    if not said:
        return record.name, NUMBERS.sub("0", record.getMessage())
    told = ((name, value) for name, value in said.items() if not name.startswith("_") and name != "timestamp")
    return record.name, *(
        (name, NUMBERS.sub("0", value) if isinstance(value, str) else str(value))
        for name, value in told
        if not isinstance(value, int | float)
    )


def _said(record: logging.LogRecord) -> Mapping[str, Any]:
    """What a line of structlog says by name; nothing of any other line."""
    return record.msg if isinstance(record.msg, Mapping) else {}


def _count(record: logging.LogRecord) -> int:
    count = _said(record).get("count", 1)
    return count if isinstance(count, int) else 1


def _counted(record: logging.LogRecord, count: int) -> logging.LogRecord:
    if said := _said(record):
        record.msg = {**said, "count": count}  # as structlog does
    elif count > 1:
        record.msg, record.args = f"{record.getMessage()} ({count} times)", None
    return record
