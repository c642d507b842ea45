"""What an exception of the worker, or of the device, means, and what may be told of it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from streamer.errors import DeviceFailed, Reason, Reject
from streamer.records import Rejected

OnError = Callable[[Exception], None]
"""Gets each exception behind a rejection."""
OURS = Path(__file__).parent


def broken(error: torch.AcceleratorError) -> DeviceFailed:
    """The error of a device that only a new process gets back."""
    return DeviceFailed(f"the device failed ({type(error).__name__}); start the process again")


def ignore(error: Exception) -> None:
    """Tell nothing of an exception."""


def rejection(error: Exception) -> Rejected:
    """The rejection of an event on which the worker fails."""
    name = type(error).__name__
    if isinstance(error, Reject):
        return Rejected(reason=error.reason, message=error.message, error=name)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return Rejected(reason=Reason.OUT_OF_MEMORY, message="no memory even for this event alone", error=name)
    # The text of a foreign exception may quote the event; headers and logs must not. Its line quotes nothing.
    return Rejected(reason=Reason.MODEL_ERROR, message=f"the worker raised {name}{_place(error)}", error=name)


def _place(error: Exception) -> str:
    """The place in the worker's file that raised the error or made the call that failed; empty when it is not known."""
    frames = _frames(error)
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" in {own[-1].name}, line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""


def show(error: Exception) -> None:
    """Write an exception of the worker to stderr, whole: its text, and the stack from the worker's file on. Not for
    events of the stream, which the text may quote."""
    lines = [*traceback.format_list(_frames(error)), *traceback.format_exception_only(error)]
    print(f"{'':-<40} the worker raised\n{''.join(lines)}{'':-<40}", file=sys.stderr, flush=True)


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """The frames of an exception but those of this room."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != OURS]
