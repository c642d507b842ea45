"""A long time at half load under mixed faults: `python -m tests.faults.soak --hours 1`. Does anything grow?

One worker is never touched: its memory, file descriptors and threads are sampled, and after a warm-up a line is laid
through them. Beside it workers are killed, frozen, stopped and started, and brokers (three) are killed and frozen. All
the while every outcome is compared with its input. Exit status 1 if memory grows by more than 1 MB an hour, or file
descriptors or threads grow, beyond the line's 95 % interval; or if anything is lost, doubled, moved or wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.report import RESULTS, table
from tests.faults.follower import Follower
from tests.faults.process import WorkerProcess
from tests.faults.stream import Stream
from tests.services import start_cluster
from tests.services.cluster import Cluster

PACE = {"items_max": 16, "seconds_per_batch": 0.05}
CAPACITY = 3 * PACE["items_max"] / PACE["seconds_per_batch"]
"""Events a second that three workers of this pace can answer: the device, not the machine, is what is busy."""
LOAD = 0.5
EVERY_S = 5.0
TRIM_EVERY_S = 60.0
PAUSE_S = (5.0, 15.0)
FROZEN_S = (4.0, 8.0)
WARM_UP = 0.25
"""The share of the run in which buffers, caches and the allocator's pools fill."""
BLOCKS, STUDENT = 12, 2.228
"""Times of an hour's run that are nearly four minutes each, and the 97.5 % quantile of Student's t for two fewer."""
LIMITS = {"rss_mb": 1.0, "fds": 1.0, "threads": 1.0}
"""By how much each may grow in an hour."""
SEED = 11


class Sample(NamedTuple):
    """One worker at one time, `at_s` seconds from the beginning."""

    slot: str
    pid: int
    at_s: float
    rss_mb: float
    fds: int
    threads: int


@dataclass(frozen=True)
class Slope:
    """Growth in an hour by least squares through the means of `BLOCKS` equal times, and half the width of its 95 %
    interval. Samples of five seconds are no evidence of their own: a worker has the same connections for minutes."""

    per_hour: float
    within: float

    def grows(self, limit: float) -> bool:
        """Whether it is above the limit for sure."""
        return self.per_hour - self.within > limit


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Of (seconds, value)."""
    blocks = [np.array(block) for block in np.array_split(np.array(points, dtype=float), BLOCKS)]
    hours, values = np.array([block.mean(0) for block in blocks]).T * [[1 / 3600], [1]]
    centred = hours - hours.mean()
    spread = float((centred**2).sum())
    per_hour = float((centred * values).sum()) / spread
    left = values - values.mean() - per_hour * centred
    error = float(np.sqrt((left**2).sum() / (BLOCKS - 2) / spread))
    return Slope(round(per_hour, 3), round(STUDENT * error, 3))


def slopes(samples: Sequence[Sample]) -> dict[str, Slope]:
    """Of what must not grow, after the warm-up."""
    warm_s = WARM_UP * max(sample.at_s for sample in samples)
    warm = [sample for sample in samples if sample.at_s >= warm_s]
    return {name: slope([(sample.at_s, getattr(sample, name)) for sample in warm]) for name in LIMITS}


def look(worker: WorkerProcess, at_s: float) -> Sample | None:
    """What a worker takes now; None when it is gone."""
    folder = Path(f"/proc/{worker.pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        fds = len(list((folder / "fd").iterdir()))
        rss_mb = int(status["VmRSS"].split()[0]) / 1024
        return Sample(worker.plan.slot, worker.pid, round(at_s, 1), round(rss_mb, 2), fds, int(status["Threads"]))
    except (OSError, KeyError):
        return None


class Soak:
    """A stream, the worker that stays, and those that suffer."""

    def __init__(self, cluster: Cluster, stream: Stream) -> None:
        self.cluster = cluster
        self.stream = stream
        self.faults: Counter[str] = Counter()
        self.story: list[str] = []
        self.samples: list[Sample] = []
        self.steady = self._start("steady")
        self._others = {slot: self._start(slot) for slot in ("a", "b")}
        self._chance = random.Random(SEED)
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def run(self, seconds: float) -> None:
        """One fault after the other, each when the last is made good."""
        faults = (self._kill, self._freeze, self._leave, self._kill_broker, self._freeze_broker)
        began = told = trimmed = time.monotonic()
        self._sampler.start()
        while (now := time.monotonic()) < began + seconds:
            fault = self._chance.choice(faults)
            self.story.append(f"{time.strftime('%H:%M:%S')} {fault.__name__}")
            fault()
            self.stream.catch_up(120)
            time.sleep(self._chance.uniform(*PAUSE_S))
            if now > trimmed + TRIM_EVERY_S:
                self.stream.trim()
                trimmed = now
            if now > told + 60:
                left_s, told = began + seconds - now, now
                print(f"{dict(self.faults)}, {self.samples[-1].rss_mb} MB, {left_s:.0f} s left", flush=True)
        self._over.set()
        self._sampler.join()

    def _start(self, slot: str) -> WorkerProcess:
        session = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "2000"}
        return self.stream.start(slot, client=session, **PACE)

    def _sample(self) -> None:
        began = time.monotonic()
        while not self._over.wait(EVERY_S):
            at_s = time.monotonic() - began
            found = [look(worker, at_s) for worker in (*self._others.values(), self.steady)]
            self.samples += [sample for sample in found if sample is not None]

    def _victim(self) -> str:
        return self._chance.choice(sorted(self._others))

    def _kill(self) -> None:
        slot = self._victim()
        self._others[slot].kill()
        self._others[slot] = self._start(slot)
        self.faults["kill -9 of a worker"] += 1

    def _freeze(self) -> None:
        slot = self._victim()
        self._others[slot].signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(*FROZEN_S))
        self._others[slot].signal(signal.SIGCONT)
        self.faults["SIGSTOP of a worker"] += 1
        time.sleep(1)
        if not self._others[slot].alive():  # fenced, and so it has left
            self._others[slot] = self._start(slot)

    def _leave(self) -> None:
        slot = self._victim()
        self._others[slot].stop(60)
        time.sleep(self._chance.uniform(*FROZEN_S))
        self._others[slot] = self._start(slot)
        self.faults["a worker leaves and comes"] += 1

    def _kill_broker(self) -> None:
        number = self._chance.randrange(len(self.cluster.brokers))
        self.cluster.brokers[number].kill()
        self.cluster.start(number)
        self.faults["kill -9 of a broker"] += 1

    def _freeze_broker(self) -> None:
        broker = self._chance.choice(self.cluster.brokers)
        broker.pause()
        time.sleep(self._chance.uniform(*FROZEN_S))
        broker.resume()
        self.cluster.wait_until_in_sync()
        self.faults["SIGSTOP of a broker"] += 1


def main() -> None:
    """Run, keep the figures and the plot, and say whether anything grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="streamer-soak-"))
    try:
        result, samples = soak(asked.hours, folder)
    except Exception:
        print(f"it broke off; the logs of its workers and brokers are in {folder}", file=sys.stderr, flush=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "soak.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    draw(samples, asked.out / "soak.png")
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=1))
    print(summary(result))
    sys.exit(0 if result["ok"] else 1)


def soak(hours: float, folder: Path) -> tuple[dict[str, object], list[Sample]]:
    """The result, and all samples."""
    rate = round(LOAD * CAPACITY)
    with (
        start_cluster() as cluster,
        Stream(cluster, folder, rate=rate, broken_every=50) as stream,
        Follower(stream) as follower,
    ):
        work = Soak(cluster, stream)
        try:
            work.run(3600 * hours)
        except AssertionError:
            print("the last faults: ", ", ".join(work.story[-5:]), file=sys.stderr)
            stream.keep_brokers(folder)
            raise
        stayed = work.steady.alive()
        stream.drain(180)
        complaints = follower.finish()
    mine = [sample for sample in work.samples if sample.slot == "steady"]
    found = slopes(mine)
    grown = [name for name, limit in LIMITS.items() if found[name].grows(limit)]
    return {
        "hours": hours,
        "events": follower.compared,
        "events_per_s": rate,
        "load": LOAD,
        "faults": dict(work.faults),
        "complaints": complaints,
        "stayed": stayed,
        "slopes_per_hour": {name: asdict(one) for name, one in found.items()},
        "first": mine[0]._asdict(),
        "last": mine[-1]._asdict(),
        "successors": len({sample.pid for sample in work.samples}) - 1,
        "successors_most": {
            name: max(getattr(sample, name) for sample in work.samples if sample.slot != "steady") for name in LIMITS
        },
        "grown": grown,
        "ok": stayed and not complaints and not grown,
        "samples": [sample[2:] for sample in mine],
    }, work.samples


def summary(result: dict[str, object]) -> str:
    """What a worker takes, as a table."""
    rows = [["of the worker that stays", "growth an hour", "95 % within", "most of those that come and go"]]
    found, most = result["slopes_per_hour"], result["successors_most"]
    assert isinstance(found, dict)
    assert isinstance(most, dict)
    rows += [
        [name, f"{found[name]['per_hour']:+.2f}", f"{found[name]['within']:.2f}", f"{most[name]:.0f}"] for name in found
    ]
    return table(rows)


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Memory, file descriptors and threads over time: the worker that stays as a line, the others as points."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    figure = Figure(figsize=(8, 7), layout="constrained")
    names = {"rss_mb": "RSS, MiB", "fds": "file descriptors", "threads": "threads"}
    for axes, (name, label) in zip(figure.subplots(3, 1, sharex=True), names.items(), strict=True):
        for steady, form in ((False, "."), (True, "-")):
            shown = [sample for sample in samples if (sample.slot == "steady") == steady]
            minutes, values = [sample.at_s / 60 for sample in shown], [getattr(sample, name) for sample in shown]
            who = "stays" if steady else "killed, frozen, replaced"
            axes.plot(minutes, values, form, label=who, markersize=2, color="tab:blue" if steady else "tab:orange")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    figure.axes[0].legend()
    figure.axes[0].set_title("A worker at half load while others, and brokers, are killed and frozen")
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
