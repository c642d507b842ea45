"""The servers a benchmark runs against, and `streamer` itself: each in an operating system process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from tests.commands import STREAMER
from tests.services import ServiceError, start_kafka, start_redis, unique
from tests.services.process import HOST, free_ports, tail

READY_S = 120.0
STOP_S = 40.0
ROOT = Path(__file__).resolve().parents[1]


class Cluster(NamedTuple):
    """Where Kafka and Redis are."""

    bootstrap: str
    redis_url: str


@contextmanager
def cluster(bootstrap: str | None = None, redis_url: str | None = None) -> Iterator[Cluster]:
    """Real servers: those given, else started by the first way that works here and ended afterwards.

    Raises:
        ServiceError: there is no way; the message lists what each of them lacks.
    """
    with ExitStack() as stack:
        bootstrap = bootstrap or stack.enter_context(start_kafka()).bootstrap
        redis_url = redis_url or stack.enter_context(start_redis()).url
        yield Cluster(bootstrap, redis_url)


def command(*words: str, sets: Mapping[str, str], folder: Path) -> list[str]:
    """A command line of `streamer` that reads no settings but these: what lies on this machine must not count."""
    nothing = folder / "nothing.toml"
    nothing.touch()
    given = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    return [STREAMER, *words, "--config", str(nothing), *given]


def environment() -> dict[str, str]:
    """This process's environment without the settings in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}


def run(*words: str, sets: Mapping[str, str], folder: Path) -> str:
    """Run a verb to its end; what it printed.

    Raises:
        ServiceError: it failed.
    """
    done = subprocess.run(
        command(*words, sets=sets, folder=folder),
        env=environment(),
        stdout=subprocess.PIPE,  # its progress bar goes to our stderr
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"streamer {' '.join(words)} ended with {done.returncode}; its message is above")
    return done.stdout


class Child:
    """A process under measurement, until the end of the `with` block, which asks it to drain by SIGTERM."""

    ends = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    """Exit codes of an orderly stop."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._command = list(command)
        self._log = folder / f"{unique('log')}.log"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command, env=environment(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        code = self._end()
        if code not in self.ends and kind is None:
            raise ServiceError(f"{self.name} ended with {code} where SIGTERM should drain it:\n{tail(self._log)}")

    def cpu_s(self) -> float:
        """CPU seconds of the whole process so far; 0 where the system has no /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return 0.0
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory in MiB now; 0 where the system has no /proc."""
        pages = Path(f"/proc/{self.pid}/statm")
        if not pages.exists():
            return 0.0
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._child
        return self._child.pid

    def check(self) -> None:
        """Raise ServiceError, with the end of its log, when it has ended by itself."""
        if self._child is not None and self._child.poll() is not None:
            raise ServiceError(f"{self.name} ended with {self._child.returncode}:\n{tail(self._log)}")

    def _end(self) -> int:
        assert self._child
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()


class WorkerProcess(Child):
    """`streamer run WORKER`."""

    ends = (0,)

    def __init__(self, worker: str, sets: Mapping[str, str], folder: Path) -> None:
        (self._port,) = free_ports(1)
        words = command("run", worker, sets={**sets, "http.port": str(self._port)}, folder=folder)
        super().__init__(Path(worker).name, words, folder)

    def wait_until_ready(self) -> None:
        """Wait until it is warm and has its partitions.

        Raises:
            ServiceError: it ended, or took too long.
        """
        give_up = time.monotonic() + READY_S
        while not self._is_ready():
            self.check()
            if time.monotonic() > give_up:
                raise ServiceError(f"{self.name} was not ready in {READY_S:.0f} s:\n{tail(self._log)}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._port}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def settings(servers: Cluster, group: str, delivery: str = "exactly_once", cached: bool = True) -> dict[str, str]:
    """The settings of a worker under measurement, by their dotted names."""
    redis = {"cache.url": servers.redis_url} if cached else {}
    return {**connection(servers), "kafka.group_id": group, "delivery": delivery, **redis}


def connection(servers: Cluster) -> dict[str, str]:
    """The settings that every verb needs. A broker in a container is not loopback, and it is a throw-away one."""
    return {"kafka.bootstrap_servers": servers.bootstrap, "allow_insecure": "true"}
