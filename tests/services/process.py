"""Servers under test: how one is started, stopped, killed, frozen and thawed, wherever it runs."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self, TypeVar

HOST = "127.0.0.1"
STOP_S = 20.0


class ServiceError(RuntimeError):
    """A server could not be had or does not do what was asked; the text names cause and cure."""


class Process(Protocol):
    """Something that runs a server: a local process, a container, or nobody (the server is not ours)."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None:
        """Stop for good and remove what the server wrote."""

    def check(self) -> None:
        """Raise ServiceError, with the end of the log, when the server has gone by itself."""


class LocalProcess:
    """A server as a child process in its own group, so that Ctrl-C reaches the tests and not the server."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = list(command)
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"

    def start(self) -> None:
        if self._child is not None:
            raise ServiceError(f"{self._command[0]} already runs: stop() or kill() it before start()")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*_dies_with_us(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            raise ServiceError(f"{self._command[0]} exited with {self._child.returncode}:\n{tail(self.log)}")

    def _end(self, how: signal.Signals) -> None:
        if self._child is None:
            return
        self._signal(how)
        self._signal(signal.SIGCONT)  # a frozen process does not see SIGTERM
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._child.wait(STOP_S)
        self._child = None

    def _signal(self, what: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, what)


class NotOurs:
    """A server that somebody else runs: it can be used, not stopped."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def start(self) -> None:
        """It runs already."""

    def close(self) -> None:
        """It stays."""

    def check(self) -> None:
        """Its owner knows."""

    def stop(self) -> None:
        self._refuse("stop")

    def kill(self) -> None:
        self._refuse("kill")

    def pause(self) -> None:
        self._refuse("pause")

    def resume(self) -> None:
        self._refuse("resume")

    def _refuse(self, verb: str) -> None:
        raise ServiceError(
            f"cannot {verb} the server in {self._variable}: these tests did not start it. "
            f"Unset {self._variable} so that they start their own, or leave out the tests that break servers"
        )


class Service(ABC):
    """A server that tests and benchmarks talk to. `start` returns once it answers."""

    start_s = 60.0

    def __init__(self, process: Process) -> None:
        self.process = process

    @abstractmethod
    def probe(self) -> None:
        """Ask the server something small; raise while it does not answer."""

    def start(self) -> Self:
        self.process.start()
        self.wait_until_ready()
        return self

    def launch(self) -> Self:
        """The first start. If it fails, nothing of the server stays behind."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_s
        while True:
            try:
                return self.probe()
            except Exception as error:  # a client has many ways to say "not yet"
                self.process.check()
                if time.monotonic() > deadline:
                    raise ServiceError(f"{self} did not answer in {self.start_s:.0f} s: {error}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM and wait: an orderly stop."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL: a crash. Data that was acknowledged survives in the page cache."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def close(self) -> None:
        """Stop for good and delete the data."""
        self.process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


S = TypeVar("S", bound="Service")


def climb(name: str, variable: str, rungs: Sequence[tuple[str, Callable[[], S]]]) -> S:
    """The first rung that gives a running server. If none does, fail with every reason; never skip."""
    reasons = [f"  - the address of a running one in {variable}: not set"]
    for way, rung in rungs:
        try:
            return rung()
        except ServiceError as error:
            reasons.append(f"  - {way}: {error}")
    raise ServiceError(f"no {name} to test against. Any one of these ways is enough:\n" + "\n".join(reasons))


def free_ports(count: int) -> list[int]:
    """Free loopback ports below the ephemeral range.

    A client that retries an ephemeral port while its server is down can connect to itself, and so take the
    port from the server that restarts.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(20_000, 32_000)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                ports.append(port)
        return ports


def tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def _dies_with_us() -> list[str]:
    """The kernel ends the server with the thread that started it: a killed run leaves no JVM behind."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
