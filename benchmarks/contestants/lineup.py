"""Who takes part, and how each is started."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks import peers
from benchmarks.servers import Child, Cluster, WorkerProcess, settings
from streamer.worker import Worker
from tests.services import unique

INSTALL = "make peers"


class Job(NamedTuple):
    """What a contestant is told: the servers, from where to where, its group, and a folder for its log."""

    servers: Cluster
    source: str
    target: str
    group: str
    folder: Path


class Contestant(Protocol):
    """Somebody who does the work; `rate` is about how many events a second it will do, to size its share."""

    name: str
    rate: int
    keeps_promises: bool
    """Whether broken events become dead letters, and outputs keep partition and order."""

    def target(self) -> str:
        """The topic of the next run's outputs."""

    def start(self, job: Job) -> Child:
        """Its process, not started yet."""

    def missing(self) -> str:
        """What it lacks here and how to get it; empty when it can run."""


class Module:
    """A module of this package, run by its own interpreter."""

    keeps_promises = False

    def __init__(self, name: str, module: str, work: str, rate: int, words: Sequence[str] = ()) -> None:
        self.name, self.rate = name, rate
        self._module, self._work, self._words = module, work, words

    def target(self) -> str:
        return unique("bench.outputs")

    def start(self, job: Job) -> Child:
        names = {
            "--bootstrap": job.servers.bootstrap,
            "--source": job.source,
            "--target": job.target,
            "--group": job.group,
            "--work": self._work,
        }
        said = [word for pair in names.items() for word in pair]
        module = f"{__package__}.{self._module}"
        return Child(self.name, [self._python(), "-m", module, *said, *self._words], job.folder)

    def missing(self) -> str:
        return ""

    def _python(self) -> str:
        return sys.executable


class Peer(Module):
    """A framework in an environment of its own."""

    def __init__(self, name: str, work: str, rate: int) -> None:
        super().__init__(name, f"{name}_peer", work, rate)

    def missing(self) -> str:
        return "" if peers.python_of(self.name) else f"not installed: {INSTALL}"

    def _python(self) -> str:
        return str(peers.python_of(self.name))


class Streamer:
    """`streamer run` with a worker under one guarantee; `sets` are further settings."""

    keeps_promises = True

    def __init__(
        self, name: str, worker: type[Worker[Any, Any]], delivery: str, rate: int, sets: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.rate = name, rate
        self.worker, self._delivery, self._sets = worker, delivery, sets or {}

    def target(self) -> str:
        return self.worker.target

    def start(self, job: Job) -> WorkerProcess:
        sets = {**settings(job.servers, job.group, self._delivery, cached=False), **self._sets, **self._more(job)}
        return WorkerProcess(named(self.worker), sets, job.folder)

    def missing(self) -> str:
        return ""

    def _more(self, _job: Job) -> dict[str, str]:
        return {}


class CachedStreamer(Streamer):
    """The same with Redis, in which each run finds nothing of the runs before."""

    def _more(self, job: Job) -> dict[str, str]:
        secret = job.folder / "cache.secret"  # it is part of every key
        secret.write_text(job.group)
        return {"cache.url": job.servers.redis_url, "cache.secret_file": str(secret)}


def named(worker: type[Worker[Any, Any]]) -> str:
    """How `streamer run` is told of a worker."""
    return f"{inspect.getfile(worker)}:{worker.__name__}"


def fused(work: str, delivery: str, commit_ms: int, rate: int) -> Module:
    """The hand-written loop."""
    words = ["--delivery", delivery, "--commit-ms", str(commit_ms)]
    return Module(f"fused {delivery} {commit_ms} ms", "fused", work, rate, words)
