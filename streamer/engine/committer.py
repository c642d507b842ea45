"""Waits for the broker while the owner thread goes on: a commit takes many milliseconds, and the device must not run
dry."""

from __future__ import annotations

import queue
import threading

from streamer.clock import Clock, Deadline
from streamer.errors import Internal, Temporary, Unclear, Wait
from streamer.ports import Commit

GRACE_S = 0.5
"""A call that keeps to its deadline may end this much later."""


class ThreadCommitter:
    """Runs each commit on a thread of its own, and leaves the thread behind when the commit does not return.

    librdkafka never returns from `send_offsets_to_transaction` when the group's coordinator goes away during the call,
    whatever timeout it is given (confluentinc/librdkafka#5456, #5511); the owner thread must go on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end: queue.SimpleQueue[BaseException | None] | None = None
        self._give_up_at = 0.0

    def start(self, commit: Commit, deadline: Deadline) -> None:
        if self._end is not None:
            raise Internal("a commit began before the last one had ended")
        end: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def run() -> None:
            try:
                commit()
            except Wait as error:
                # Its text is all that is asked of it; its stack would keep the client alive, with threads and buffers.
                error.__cause__ = error.__context__ = None
                end.put(error.with_traceback(None))
            except BaseException as error:  # the owner raises it
                end.put(error)
            else:
                end.put(None)

        try:
            threading.Thread(target=run, name="commit", daemon=True).start()
        except RuntimeError as error:  # nothing of this commit has been asked for
            raise Temporary(
                f"no thread for a commit ({error}); raise the limit of threads: ulimit -u, pids.max"
            ) from error
        self._end, self._give_up_at = end, self._clock.now() + deadline.left() + GRACE_S

    def ended(self, timeout_s: float) -> bool:
        if self._end is None:
            raise Internal("no commit has begun")
        try:
            error = self._end.get(timeout=timeout_s) if timeout_s > 0 else self._end.get_nowait()
        except queue.Empty:
            if self._clock.now() < self._give_up_at:
                return False
            self._end = None
            raise Unclear("the client does not return from a commit") from None
        self._end = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # a cycle with this frame would keep the client alive until the collector runs
        return True
