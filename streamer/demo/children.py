"""Processes that never outlive the demo, however it ends: each watches a pipe, which the kernel closes when the demo
ends, even when it is killed."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from streamer.errors import Exit

LINES_SHOWN = 15
KILL_S = 5.0


class Died(Exit):
    """A process that the demo needs has ended by itself."""


class Child(ABC):
    """A process that leads a group of its own: Ctrl-C reaches only the demo, which then stops the process in order."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self._log = log

    @abstractmethod
    def wait(self, timeout_s: float) -> int | None:
        """The exit status, None while the process runs."""

    @abstractmethod
    def pid(self) -> int:
        """The id of the process, and of its process group."""

    def check(self) -> None:
        """Do nothing while the process runs.

        Raises:
            Died: it has ended; the message holds the end of its log.
        """
        code = self.wait(0)
        if code is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
            raise Died("\n".join([f"{self.name} ended with {code}; its log, {self._log}, ends with:", *lines]))

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        with suppress(ProcessLookupError):
            os.kill(self.pid(), signal.SIGTERM)

    def stopped(self, timeout_s: float) -> None:
        """Wait until the process has ended well.

        Raises:
            Died: it ended with an error, or did not end in `timeout_s` seconds.
        """
        code = self.wait(timeout_s)
        if code is None:
            raise Died(f"{self.name} did not stop in {timeout_s:.0f} s; its log is {self._log}")
        if code != 0:
            self.check()

    def kill(self) -> None:
        """End the process and what it has started, now."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid(), signal.SIGKILL)
        self.wait(KILL_S)


class Program(Child):
    """A module as a process: it watches its stdin, a pipe, and writes stderr to `log`."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path) -> None:
        super().__init__(name, log)
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603  our own modules
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )

    def line(self) -> str:
        """The first line that the process prints.

        Raises:
            Died: it ended without one.
        """
        line = _pipe(self._process.stdout).readline().decode().strip()
        if not line:
            self._process.wait()
            self.check()
        return line

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        super().kill()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()


class Copy(Child):
    """A copy of this process that calls `target` and writes its output to `log`.

    Where the system forks safely, the copy does not import again what is imported here: torch takes three seconds of a
    processor. When a copy is made, no other thread may run and no GPU may be in use.
    """

    def __init__(self, name: str, target: Callable[..., None], arguments: Sequence[Any], log: Path) -> None:
        super().__init__(name, log)
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._process = context.Process(target=_copied, args=(target, arguments, log), name=name, daemon=True)
        self._process.start()

    def explain(self) -> None:
        """Let the process write the stack of each of its threads to its log, and end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid(), signal.SIGABRT)
        self.wait(KILL_S)

    def wait(self, timeout_s: float) -> int | None:
        self._process.join(timeout_s)
        code: int | None = self._process.exitcode
        return code

    def pid(self) -> int:
        pid: int = self._process.pid
        return pid


def _copied(target: Callable[..., None], arguments: Sequence[Any], log: Path) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable(2)  # a crash, or SIGABRT, writes the stacks
    parent = multiprocessing.parent_process()
    assert parent is not None
    _kill_group_after(parent.join)
    target(*arguments)


def _kill_group_after(wait: Callable[[], Any]) -> None:
    def watch() -> None:
        wait()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":  # a Program that is not ours, given by these arguments, on the same leash
    _kill_group_after(partial(os.read, 0, 1))  # unbuffered: the lock of a buffer would be held when Python ends
    _process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda number, frame: _process.terminate())
    sys.exit(_process.wait())
