"""The demo from start to summary. The main thread owns it; simulator and reader have threads of their own."""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from streamer import discovery
from streamer.demo import answers, broker
from streamer.demo.children import Copy, Died, Program, free_port
from streamer.demo.reader import Reader
from streamer.demo.scrape import Figures, Probe, total
from streamer.demo.simulator import Simulation, Simulator
from streamer.demo.summary import Places, Summary, summarise
from streamer.demo.tally import Tally, percentile
from streamer.demo.view import Picture, Row, View
from streamer.worker import Worker

TICK_S = 0.25
START_S = 120.0
"""Enough for a GPU's first start from cold disks; a start that takes longer has failed."""
SETTLE_S = 20.0
STOP_S = 30.0
LATENCIES_SHOWN = 2_000
"""Live percentiles cover this many latest predictions: ten seconds at the usual rate."""
RATE_TICKS = 8
HISTORY = 24


class Options(NamedTuple):
    """What the command line says; `seconds` of events, None until Ctrl-C; `rate` in events/s."""

    seconds: float | None
    rate: float
    bootstrap: str | None
    redis: str | None
    device: str


class Loaded(NamedTuple):
    """What is known once torch is imported."""

    workers: Sequence[Worker[Any, Any]]
    serve: Callable[[str, dict[str, Any]], None]
    device: Callable[[str], str]


class Serving(NamedTuple):
    """A worker's process and its HTTP side."""

    name: str
    child: Copy
    probe: Probe


def run(options: Options, view: View, began: float) -> Summary:
    """Start everything, let events flow, stop in order, and account for every event.

    `began` is when the user pressed enter, in seconds on the monotonic clock. When not all went well, the logs of the
    processes stay in a folder, which the error names.

    Raises:
        Died: a process ended by itself or did not stop well.
        Exit: the broker or the Redis given cannot be used.
    """
    folder = Path(tempfile.mkdtemp(prefix="streamer-demo-"))
    keep = False
    try:
        with ExitStack() as stack:
            stack.enter_context(view)
            summary = Session(options, view, began, folder, stack).run()
            view.close_with(summary, discovery.without_windows())
        keep = not summary.accounted
        return msgspec.structs.replace(summary, logs=str(folder)) if keep else summary
    except Died:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder)


class Session:
    """One run. `stack` ends everything that the run has started, however it ends."""

    def __init__(self, options: Options, view: View, began: float, folder: Path, stack: ExitStack) -> None:
        self._options = options
        self._view = view
        self._began = began
        self._folder = folder
        self._stack = stack
        self._id = f"demo-{uuid.uuid4().hex[:8]}"
        self._tally = Tally()
        self._places = Places(broker="", cache="", device="")
        self._serving: list[Serving] = []
        self._figures: dict[str, Figures] = {}
        self._outcomes: deque[tuple[float, dict[str, int]]] = deque(maxlen=RATE_TICKS)
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._reader: Reader | None = None
        self._redis: str | None = None

    def run(self) -> Summary:
        """See `streamer.demo.session.run`."""
        address = self._start_places()
        workers = self._start_workers(address)
        client = {"bootstrap.servers": address, "enable.metrics.push": "false"}
        self._until(lambda: self._all("/startupz"), "the workers warm up their models")
        self._until(lambda: self._all("/readyz"), "the workers join their groups")
        self._reader = Reader(client, workers, self._id, self._tally)
        self._reader.start()
        simulation = Simulation(workers, self._id, seed=1)
        simulator = Simulator(client, simulation, self._options.rate, self._tally)
        with stop_on_signals() as stopping:
            simulator.start()
            self._flow(stopping)
            simulator.stop()
            self._settle()
            self._stop_workers()
        self._reader.stop()
        return summarise(self._tally, total(self._figures.values()), self._places, self._began)

    def _start_places(self) -> str:
        """Broker and cache; returns the broker's address."""
        options = self._options
        self._show("the broker starts")
        mock = None
        if options.bootstrap is None:
            mock = Program("the mock broker", "streamer.demo.broker", [], self._folder / "broker.log")
            self._stack.callback(mock.kill)
        found = answers.find(options.redis, self._folder)
        if found.child:
            self._stack.callback(found.child.kill)
        self._redis = found.url
        address = mock.line() if mock else str(options.bootstrap)
        self._places = Places(f"{broker.SAID if mock else 'Kafka'} ({address})", found.said, device="")
        return address

    def _start_workers(self, address: str) -> Sequence[Worker[Any, Any]]:
        """Start every installed worker in a process of its own; return the workers, for their events and words."""
        self._show("torch and the workers are loaded")
        loaded = _load()
        for worker in loaded.workers:
            port = free_port()
            settings = self._settings(worker.name, address, port)
            child = Copy(worker.name, loaded.serve, [worker.name, settings], self._folder / f"{worker.name}.log")
            self._stack.callback(child.kill)
            self._serving.append(Serving(worker.name, child, Probe(port)))
        # Only now: looking for a GPU uses it, and then no copy of this process could.
        self._places = msgspec.structs.replace(self._places, device=loaded.device(self._options.device))
        return loaded.workers

    def _settings(self, name: str, address: str, port: int) -> dict[str, Any]:
        return {
            "device": self._options.device,
            "allow_insecure": True,  # nothing travels but invented events
            "kafka": {
                "bootstrap_servers": address,
                "group_id": f"{self._id}-{name}",
                "slot": "demo",
                # A mock broker waits all of this time before it looks again; a real one answers at once.
                "client": {"fetch.wait.max.ms": "5"} if self._options.bootstrap is None else {},
            },
            "cache": {"url": self._redis},
            "http": {"port": port},
            "log": {"format": "json"},
        }

    def _flow(self, stopping: threading.Event) -> None:
        seconds = self._options.seconds
        end = None if seconds is None else time.monotonic() + seconds
        while not stopping.is_set() and (end is None or time.monotonic() < end):
            self._tick("")
            stopping.wait(TICK_S)

    def _settle(self) -> None:
        """Wait until every event has its outcome, at most SETTLE_S."""
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            self._tick("the last events get their outcomes")
            counts = self._tally.counts()
            skipped = total(self._figures.values()).skipped
            if counts.produced == counts.predicted + counts.dead_lettered + skipped and not counts.in_flight:
                return
            time.sleep(TICK_S / 5)

    def _stop_workers(self) -> None:
        self._show("the workers drain and stop")
        for one in self._serving:
            one.child.ask_to_stop()
        for one in self._serving:
            one.child.stopped(STOP_S)

    def _until(self, done: Callable[[], bool], stage: str) -> None:
        end = time.monotonic() + START_S
        while not done():
            for one in self._serving:
                one.child.check()
            if time.monotonic() > end:
                for one in self._serving:
                    one.child.explain()
                raise Died(f"{stage} for more than {START_S:.0f} s; see their logs: {self._folder}/*.log")
            self._show(stage)
            time.sleep(TICK_S / 5)

    def _all(self, path: str) -> bool:
        return all(one.probe.ok(path) for one in self._serving)

    def _tick(self, stage: str) -> None:
        """Look at every process, read its figures, show all of it."""
        for one in self._serving:
            one.child.check()
            if (figures := one.probe.figures()) is not None:
                self._figures[one.name] = figures
        now = time.monotonic()
        self._outcomes.append((now, {name: figures.outcomes for name, figures in self._figures.items()}))
        self._view.show(self._picture(stage, now))

    def _show(self, stage: str) -> None:
        self._view.show(self._picture(stage, time.monotonic()))

    def _picture(self, stage: str, now: float) -> Picture:
        recent = self._tally.latencies(LATENCIES_SHOWN)
        rows = [Row(name, self._rate(name), figures) for name, figures in self._figures.items()]
        if rows:
            self._history.append(sum(row.rate for row in rows))
        return Picture(
            stage=stage,
            elapsed_s=now - self._began,
            places=self._places,
            rows=rows,
            counts=self._tally.counts() if rows else None,
            p50_s=percentile(recent, 0.5),
            p99_s=percentile(recent, 0.99),
            history=list(self._history),
            said=list(self._reader.said) if self._reader else (),
        )

    def _rate(self, name: str) -> float:
        (then, before), (now, after) = self._outcomes[0], self._outcomes[-1]
        return (after[name] - before.get(name, 0)) / (now - then) if now > then else 0.0


def _load() -> Loaded:
    # Once, for all processes; and on this thread, because a process with other threads is not copied safely: the copy
    # would wait without end for their locks.
    from streamer import app
    from streamer.demo.serve import serve

    workers = [discovery.find(name)() for name in discovery.without_windows()]
    return Loaded(workers, serve, lambda wanted: str(app.choose_device(wanted)))


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Set the event on the first Ctrl-C or SIGTERM; a second one raises KeyboardInterrupt."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# librdkafka logs every connection that ends; a screen has no place for that.
logging.getLogger("librdkafka").addHandler(logging.NullHandler())
logging.getLogger("librdkafka").propagate = False
