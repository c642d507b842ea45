"""Worker processes: started, killed, frozen and asked for how they ended."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.faults import worker_main
from tests.faults.worker_main import Plan

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([worker_main.__name__])  # torch takes seconds to import: once is enough


class WorkerProcess:
    """One worker, in an operating system process of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._process = _CONTEXT.Process(target=worker_main.main, args=(plan,), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the operating system."""
        return self._process.pid or 0

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            os.kill(self._process.pid or 0, number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait(10)

    def stop(self, timeout_s: float = 40) -> int:
        """SIGTERM, and wait for the end. Returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def alive(self) -> bool:
        """Whether it runs or is frozen."""
        return self._process.is_alive()

    def frozen(self) -> bool:
        """Whether it has been stopped by SIGSTOP."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def wait(self, timeout_s: float) -> int:
        """Wait for the end by itself. Returns the exit status, negative for a signal."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise AssertionError(f"worker {self.plan.slot} did not end in {timeout_s} s:\n{self.log()[-3000:]}")
        return self._process.exitcode

    def wait_for(self, event: str, timeout_s: float = 30) -> None:
        """Wait until the worker has logged this."""
        deadline = time.monotonic() + timeout_s
        while event not in self.log():
            if time.monotonic() > deadline or not self.alive():
                raise AssertionError(f"worker {self.plan.slot} did not log {event!r}:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def log(self) -> str:
        """All that it has logged."""
        path = Path(self.plan.log)
        return path.read_text(errors="replace") if path.exists() else ""

    def computed(self) -> int:
        """How many events it has run through the model; known once it has ended by itself."""
        return sum(line["computed"] for line in self.events("served"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used so far, in all its threads."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
