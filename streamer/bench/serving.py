"""The worker's process as the run sees it: its probes, its metrics, its CPU time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families

from streamer.demo.children import Child, Died
from streamer.demo.scrape import Probe

START_S = 120.0
"""Enough for a GPU's first start from cold disks; a start that takes longer has failed."""
STOP_S = 15.0
"""Beyond `drain_s`."""
LEAVE_S = 3.0
LOOK_S = 0.05


class Figures:
    """Counters at one moment, or their increase between two: by name, and by their label beside `worker`."""

    def __init__(self, values: Mapping[tuple[str, str], float]) -> None:
        self._values = values

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the /metrics of one worker, in Prometheus' text format; buckets of histograms are left out."""
        return cls(
            {
                (
                    sample.name,
                    next((said for name, said in sample.labels.items() if name != "worker"), ""),
                ): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if "le" not in sample.labels
            }
        )

    def since(self, earlier: Figures) -> Figures:
        """The increase since `earlier`."""
        return Figures({at: value - earlier._values.get(at, 0.0) for at, value in self._values.items()})

    def by(self, name: str) -> dict[str, float]:
        """The values of one metric by label, without zeros."""
        return {label: value for (known, label), value in self._values.items() if known == name and value}

    def total(self, name: str, *labels: str) -> float:
        """The sum of one metric, over these labels or over all."""
        return sum(value for label, value in self.by(name).items() if not labels or label in labels)

    def mean(self, name: str) -> float | None:
        """The mean of a histogram's values; None before the first."""
        count = self.total(f"{name}_count")
        return self.total(f"{name}_sum") / count if count else None

    @property
    def outcomes(self) -> int:
        """Events with a durable outcome."""
        return int(self.total("streamer_messages_produced_total"))

    @property
    def skipped(self) -> int:
        """Events that the worker's own filter declined."""
        return int(self.total("streamer_messages_produced_total", "skipped"))


class Moment(NamedTuple):
    """The worker at one moment: seconds on the monotonic clock, CPU seconds of its process since its start and of all
    cores of the machine, resident MiB; None where the system has no /proc."""

    at: float
    figures: Figures
    cpu_s: float | None
    machine_s: float | None
    rss_mib: float | None


class ServedWorker(Child):
    """`streamer.bench.child` as a process that writes its output to `log`."""

    def __init__(self, name: str, job: bytes, port: int, log: Path) -> None:
        super().__init__(name, log)
        self._probe = _Metrics(port)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streamer.bench.child"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        assert self._process.stdin
        self._process.stdin.write(job)
        self._process.stdin.flush()  # stdin stays open: the child ends when it closes

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the process, after a moment to leave its group; else the group could not be deleted."""
        if self.wait(0) is None:
            self.ask_to_stop()
            self.wait(LEAVE_S)
        super().kill()
        assert self._process.stdin
        self._process.stdin.close()

    def until_ready(self) -> None:
        """Wait until the model is warm and partitions are assigned.

        Raises:
            Died: the process ended, or took too long.
        """
        end = time.monotonic() + START_S
        while not self._probe.ok("/readyz"):
            self.check()
            if time.monotonic() > end:
                raise Died(f"{self.name} was not ready in {START_S:.0f} s; its log is {self._log}")
            time.sleep(LOOK_S)

    def drain(self, drain_s: float) -> None:
        """Let the worker finish what is in flight, within `drain_s` seconds, and end.

        Raises:
            Died: the process ended with an error, or not in time.
        """
        self.ask_to_stop()
        self.stopped(drain_s + STOP_S)

    def look(self) -> Moment | None:
        """The worker now; None when it does not answer.

        Raises:
            Died: the process has ended by itself.
        """
        self.check()
        text = self._probe.text()
        if text is None:
            return None
        return Moment(
            time.monotonic(), Figures.parse(text), _process_s(self.pid()), _machine_s(), _resident(self.pid())
        )


class _Metrics(Probe):
    def text(self) -> str | None:
        status, body = self._get("/metrics")
        return body if status == 200 else None


def _process_s(pid: int) -> float | None:
    text = _read(f"/proc/{pid}/stat")
    return None if text is None else sum(map(int, text.rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def _machine_s() -> float | None:
    """The busy seconds of all cores: user, nice, system, interrupts, steal; neither idle nor waiting for disks."""
    text = _read("/proc/stat")
    if text is None:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, text.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float | None:
    text = _read(f"/proc/{pid}/statm")
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
