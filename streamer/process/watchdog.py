"""Ends the process when its loop does not turn, with the stack of every thread on stderr.

A loop can be stuck where no Python runs: in a call of the worker that keeps the interpreter (a regular expression that
backtracks for ever). So a thread of `faulthandler` in C keeps watch; it needs no interpreter.
"""

from __future__ import annotations

import faulthandler
from contextlib import suppress

EVERY_S = 1.0
"""How often the timer is set again: each time costs a thread."""


class Watchdog:
    """Ends the process with exit status 1 when `beat` is not called for `timeout_s`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._set = float("-inf")

    def beat(self, now: float) -> None:
        """The loop has turned."""
        if now - self._set >= EVERY_S:
            self._set = now
            with suppress(RuntimeError):  # no thread to be had: a machine at its limit is served on, unwatched
                faulthandler.dump_traceback_later(self._timeout_s, exit=True)

    def close(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()
