"""Faults of the machine that a worker runs on: disks, clocks, memory, files and threads that run out.

Each is a function that the worker's process calls before it serves (`Plan.before`).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from streamer import clock as clocks
from streamer.records import Rejected
from streamer.slices import Row, Rows
from streamer.telemetry import health
from streamer.wire.codec import JsonCodec
from streamer.worker import Tensors
from tests.faults import worker_main
from tests.faults.process import WorkerProcess
from tests.faults.worker_main import Plan, SlowEcho

WARM_UP_BATCHES = 2
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 0x40000
NOBODY = 54_321  # a user of no processes, so that a limit on its threads counts those of one worker
CGROUPS = Path("/sys/fs/cgroup/memory")
CLOCK_SHIFT = Path(__file__).with_name("clock_shift.c")

_taken: list[Any] = []


def at_batch(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Do something to the process when its model runs the nth batch, on the runner's thread."""
    return partial(_arm, number, action)


def _arm(number: int, action: Callable[[], None]) -> None:
    predict, left = SlowEcho.predict, WARM_UP_BATCHES + number

    def counted(worker: SlowEcho, tensors: Tensors) -> Tensors:
        nonlocal left
        left -= 1
        if left == 0:
            action()
        return predict(worker, tensors)

    SlowEcho.predict = counted  # type: ignore[method-assign]


def eat_memory() -> None:
    """Until the kernel says no."""
    while True:
        _taken.append(b"x" * (16 << 20))


def run_out_of_memory() -> None:
    """Of the address space: one allocation fails, and all is as before."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        _taken.append(b"x" * (256 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run_out_of_files() -> None:
    """Have every descriptor that is allowed open, for good."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, highest + 2))
    try:
        while True:
            _taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return


def run_out_of_threads() -> None:
    """From now on no thread can be started. Root is not bound by the limit, so it is given up."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        worker_main._die_with_parent()  # the kernel has forgotten it
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def full_disk(folder: str) -> None:
    """A disk without room where the worker keeps its state: a small tmpfs of this process alone; without the right to
    mount one, no file may grow."""
    tempfile.tempdir = folder
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0:
        assert libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=8k") == 0
        (Path(folder) / "other.people.s.data").write_bytes(bytes(8192))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def fatal_full_disk(folder: str) -> None:
    """A planted bug: a worker that cannot keep its marks does not serve."""
    full_disk(folder)

    def strict(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    worker_main.app.FileStore = strict  # type: ignore[assignment,misc]
    worker_main.app.MemoryStore = strict  # type: ignore[assignment,misc]


def files_end_at(size: int) -> None:
    """No file may grow beyond this: a log that is as long already gets no further line."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def wall_clock() -> None:
    """A planted bug: waits are counted on the wall's clock."""
    clocks.SystemClock.now = lambda self: self.time_ms() / 1000  # type: ignore[method-assign]


def stale_after(seconds: float) -> None:
    """A probe misses a loop that has not turned for so long, not for a minute."""
    health.STALE_S = seconds


def stuck_after(seconds: float, batches: int) -> None:
    """The owner thread stops turning after so many reads, for ever; a probe notices it this soon."""
    stale_after(seconds)
    decode, left = JsonCodec.decode, batches

    def stuck(codec: JsonCodec, rows: Rows) -> list[tuple[Row, Rejected]]:
        nonlocal left
        left -= 1
        if left == 0:
            time.sleep(3600)
        return decode(codec, rows)

    JsonCodec.decode = stuck  # type: ignore[method-assign]


@contextmanager
def memory_cgroup(name: str, limit: int) -> Iterator[Path]:
    """A group of processes that the kernel gives no more memory than this (cgroup v1, as root).

    Raises:
        OSError: it cannot be had here.
    """
    group = CGROUPS / name
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        group.rmdir()


class ShiftedClockProcess(WorkerProcess):
    """A worker whose wall clock can be moved; its monotonic clock goes on as ever."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._shift = Path(f"{plan.log}.shift")
        self.jump(0)
        given = {"LD_PRELOAD": _clock_shift(self._shift.parent), "CLOCK_SHIFT": str(self._shift)}
        self._process = multiprocessing.get_context("spawn").Process(target=worker_main.main, args=(plan,), daemon=True)
        os.environ.update(given)  # the loader reads it: a process that is forked would not
        try:
            self._process.start()
        finally:
            for name in given:
                del os.environ[name]

    def jump(self, seconds: int) -> None:
        """Set the wall clock this far from the machine's."""
        with open(self._shift, "r+b" if self._shift.exists() else "wb", buffering=0) as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


def _clock_shift(folder: Path) -> str:
    """The library that moves the clock, made here."""
    compiler, library = shutil.which("cc"), folder / "clock_shift.so"
    if compiler is None:
        raise RuntimeError("no cc, which makes the library that moves a clock: install a C compiler")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, CLOCK_SHIFT], check=True)
    return str(library)
