"""How many events a second `streamer windows` takes, and what CPU each costs: `python -m benchmarks.windows`.

The real command on a real Kafka and Redis, on what is waiting in a topic of one partition: the invoices of Online
Retail (18 lines each on average), and the same with their first line alone, which is what a small event costs. Sampled
is between a tenth and nine tenths of the topic, so that neither start nor end counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from benchmarks.report import table
from schemas import InvoiceEvent
from streamer.demo.children import free_port
from tests.commands import STREAMER, environment, start
from tests.data import shared
from tests.services import Kafka, Redis, create_topic, produce_many, start_kafka, start_redis, unique
from workers.purchase_propensity.history import load

WORKER = """
from workers.purchase_propensity.worker import PurchasePropensityWorker


class Mine(PurchasePropensityWorker):
    name = "{name}"
    source = "{name}"
    target = "{name}.propensities"
"""
ROUNDS = 3
COUNTED = "streamer_windows_records_total"
LIMIT_S = 300.0


class Cost(NamedTuple):
    """Of one run: events a second, and microseconds of CPU each, of the windows process alone."""

    per_s: float
    cpu_us: float


def main() -> None:
    invoices = [one for one in load(shared("online_retail") / "online_retail.csv.gz") if one.customer_id]
    contents = {
        f"invoices of {sum(len(one.lines) for one in invoices) / len(invoices):.0f} lines": invoices,
        "invoices of one line": [one.model_copy(update={"lines": one.lines[:1]}) for one in invoices],
    }
    rows = [["events", "a second", "CPU of each, us", "events a second of a core"]]
    with start_kafka() as kafka, start_redis() as server:
        for what, events in contents.items():
            print(f"{what}: {ROUNDS} times {len(events):,}", file=sys.stderr, flush=True)
            costs = sorted(measure(kafka, server, events) for _ in range(ROUNDS))
            middle = costs[ROUNDS // 2]
            rows.append([what, f"{middle.per_s:,.0f}", f"{middle.cpu_us:.0f}", f"{1e6 / middle.cpu_us:,.0f}"])
    print(table(rows))


def measure(kafka: Kafka, server: Redis, events: Sequence[InvoiceEvent]) -> Cost:
    """One run, on a topic of its own."""
    name, port = unique("windows"), free_port()
    create_topic(kafka.bootstrap, name, 1)
    produce_many(kafka.bootstrap, name, [(one.key.encode(), one.model_dump_json().encode()) for one in events])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mine.py").write_text(WORKER.format(name=name), encoding="utf-8")
        settings = environment(
            kafka__bootstrap_servers=kafka.bootstrap,
            cache__url=server.url,
            allow_insecure="true",
            http__port=str(port),
        )
        environ, place = {**settings, "TMPDIR": folder}, Path(folder)
        apply = [STREAMER, "topics", "apply", "mine.py:Mine"]
        subprocess.run(apply, cwd=place, env=environ, check=True, stdout=subprocess.DEVNULL)
        process = start(["windows", "mine.py:Mine"], place, environ)
        try:
            return _sampled(len(events), lambda: _counted(port), process)
        finally:
            process.kill()
            process.wait()


def _sampled(total: int, counted: Callable[[], float], process: subprocess.Popen[bytes]) -> Cost:
    samples: list[tuple[float, float, float]] = []
    deadline = time.monotonic() + LIMIT_S
    while not samples or samples[-1][0] < 0.9 * total:
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit(f"the windows stand still, or have ended ({process.returncode})")
        time.sleep(0.05)
        if (count := counted()) >= 0.1 * total:
            samples.append((count, time.monotonic(), _cpu_s(process.pid)))
    (first, began, cpu), (last, ended, cpu_then) = samples[0], samples[-1]
    return Cost((last - first) / (ended - began), 1e6 * (cpu_then - cpu) / (last - first))


def _counted(port: int) -> float:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(COUNTED))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
