"""The phases of the long run. Each has brokers and streams of its own, so that it can be run by itself."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import ambiguous
from tests.faults.checker import check
from tests.faults.process import WorkerProcess
from tests.faults.proxied import proxied_kafka
from tests.faults.report import GOALS, Phase
from tests.faults.stream import PROTOCOLS, Stream
from tests.faults.transactions import OFFSETS, STATES, Logs, audit, coordinator_partition, rebalances
from tests.faults.worker_main import ARM, POINTS
from tests.services import Cluster, Kafka, local_kafka, start_cluster

EVENTS: Mapping[str, int] = {"kills": 500_000, "brokers": 250_000, "rebalances": 200_000, "ambiguous": 50_000}
"""What a phase writes at least, so that all of them come to a million; most write more while faults last."""
BROKEN_EVERY = 50
READ_S = 300.0
FINISH_S = 180.0
SEED = 7

KILLED = "kill -9 of a worker"
KILLS = 216  # nine at each of 24 steps
KILL_STREAMS = ("classic", "classic", "consumer")
DEFAULT_SESSION = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "2000"}  # what a worker has by default

BROKER_KILLS = BROKER_STOPS = 20
ROLLING = 2  # rounds of SIGTERM and start, one broker after the other
FROZEN_S = (5.0, 9.0)  # past the broker's session of 3 s; every fourth freeze is longer
LONG_FROZEN_S = 20.0
FREEZES_LONG_EVERY = 5

WORKERS_MAX = 6
KILL_EVERY = 12  # of the workers that leave, one in so many does not say so


@dataclass
class Run:
    """What a phase is given: how large it is to be, where logs go, and whom to tell how far it is."""

    share: float
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def times(self, count: int) -> int:
        """This share of a count, once at least."""
        return max(1, math.ceil(self.share * count))

    def tell(self, name: str, done: int, of: int, events: int) -> None:
        """How far a phase is, and how long the rest may take."""
        gone = time.monotonic() - self.began
        left = gone / done * (of - done) if done else math.nan
        print(f"[{name}] {done} of {of}, {events:,} events, {gone:.0f} s gone, about {left:.0f} s left", flush=True)

    def logs(self, name: str) -> Path:
        """A new folder for a stream's logs."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


def kills(run: Run) -> Phase:
    """Workers are killed at every step of the algorithm, one at a time in each of three groups."""
    phase, count = Phase("kills", run.share), run.times(KILLS)
    points = itertools.cycle(POINTS)
    mine: list[list[str]] = [[] for _ in KILL_STREAMS]
    for number, point in enumerate(itertools.islice(points, count)):
        mine[number % len(mine)].append(point)
    lock = threading.Lock()

    def killed(point: str, protocol: str, seconds: float | None) -> None:
        with lock:
            phase.faults[KILLED] += 1
            phase.points[point] += 1
            if seconds is not None:
                phase.recovered(protocol, seconds)
            if phase.faults[KILLED] % 10 == 0:
                run.tell(phase.name, phase.faults[KILLED], count, sum(written(stream) for stream in streams))

    with local_kafka() as kafka, contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(_stream(kafka, run.logs(f"kills-{n}"), protocol, 350))
            for n, protocol in enumerate(KILL_STREAMS)
        ]
        with ThreadPoolExecutor(len(streams)) as pool:
            works = [
                pool.submit(kill_one_by_one, stream, points, lambda p, s, protocol=protocol: killed(p, protocol, s))
                for stream, points, protocol in zip(streams, mine, KILL_STREAMS, strict=True)
            ]
            for work in works:
                work.result()
        _close(phase, run, streams)
    return phase


def kill_one_by_one(
    stream: Stream, points: Sequence[str], killed: Callable[[str, float | None], None], **options: Any
) -> None:
    """Two workers, each with a step to die at; one is told to, and when all is answered again, the other. `options` are
    those of `Plan`."""
    client = DEFAULT_SESSION if stream.protocol == "classic" else {}
    left = list(points[::-1])
    running: dict[str, WorkerProcess] = {}

    def start(slot: str) -> None:
        """The first successor that does not die as it starts."""
        while left and "init_transactions" in left[-1]:
            doomed = stream.start(slot, client=client, die_at=(left[-1], 1), **options)
            _died(doomed)
            killed(left.pop(), None)
        running[slot] = stream.start(slot, client=client, die_at=(left.pop(), 0) if left else None, **options)

    for slot in ("a", "b"):
        start(slot)
    for worker in running.values():
        worker.wait_for("partitions assigned")
    stream.catch_up()
    for slot in itertools.cycle(("a", "b")):
        victim = running[slot]
        if victim.plan.die_at is None:
            if all(worker.plan.die_at is None for worker in running.values()):
                return
            continue
        victim.signal(ARM)
        _died(victim)
        point, began = victim.plan.die_at[0], time.monotonic()
        start(slot)
        stream.catch_up()
        killed(point, time.monotonic() - began)


def _died(worker: WorkerProcess) -> None:
    if (status := worker.wait(60)) != -signal.SIGKILL:
        raise AssertionError(f"{worker.plan.die_at}: ended with {status}, not by its own hand:\n{worker.log()[-3000:]}")


def brokers(run: Run) -> Phase:
    """Three brokers; one at a time is killed, frozen or stopped, mostly one that coordinates what is going on."""
    phase = Phase("brokers", run.share)
    faults = [_kill] * run.times(BROKER_KILLS) + [_freeze] * run.times(BROKER_STOPS) + [_roll] * run.times(ROLLING)
    chance = random.Random(SEED)
    chance.shuffle(faults)
    with start_cluster() as cluster, contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(_stream(cluster, run.logs(f"brokers-{protocol}"), protocol, 275))
            for protocol in PROTOCOLS
        ]
        for stream in streams:
            for slot in ("a", "b"):
                stream.start(slot, client=DEFAULT_SESSION if stream.protocol == "classic" else {})
            stream.answer(600)
        workers = [worker for stream in streams for worker in stream.workers()]
        with ThreadPoolExecutor(len(streams)) as pool:
            for number, fault in enumerate(faults, 1):
                victim = coordinator(cluster, streams[number % 2], number)
                fault(cluster, victim, Faults(phase, streams, pool, chance))
                run.tell(phase.name, number, len(faults), sum(map(written, streams)))
        if gone := [worker.plan.slot for worker in workers if not worker.alive()]:
            phase.notes.append(f"workers that had to be started again: {gone}")
        _close(phase, run, streams)
    return phase


def coordinator(cluster: Cluster, stream: Stream, number: int) -> int:
    """Which broker is next: that of the workers' transactions, that of the group, or any."""
    turn = number // 2 % 3
    if turn == 0:
        return cluster.leader(STATES, coordinator_partition(f"{stream.group}.a", 5))
    if turn == 1:
        return cluster.leader(OFFSETS, coordinator_partition(stream.group, 5))
    return number % len(cluster.brokers)


@dataclass
class Faults:
    """What a fault of a broker needs to be measured."""

    phase: Phase
    streams: Sequence[Stream]
    pool: ThreadPoolExecutor
    chance: random.Random

    @contextlib.contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Note how long each stream takes to answer what is written now, whatever happens meanwhile."""
        works = [self.pool.submit(stream.catch_up, 120) for stream in self.streams]
        yield
        for work in works:
            self.phase.recovered(what, work.result())
        self.phase.faults[f"{what} of a broker"] += 1


def _kill(cluster: Cluster, victim: int, faults: Faults) -> None:
    cluster.brokers[victim].kill()
    with faults.measured("kill -9"):
        time.sleep(faults.chance.uniform(0, 3))  # back before the others miss it, or after
        cluster.start(victim)


def _freeze(cluster: Cluster, victim: int, faults: Faults) -> None:
    cluster.brokers[victim].pause()
    with faults.measured("SIGSTOP"):
        long = faults.phase.faults["SIGSTOP of a broker"] % FREEZES_LONG_EVERY == FREEZES_LONG_EVERY - 1
        time.sleep(LONG_FROZEN_S if long else faults.chance.uniform(*FROZEN_S))
        cluster.brokers[victim].resume()
        cluster.wait_until_in_sync()


def _roll(cluster: Cluster, victim: int, faults: Faults) -> None:
    for number in range(len(cluster.brokers)):
        which = (victim + number) % len(cluster.brokers)
        with faults.measured("SIGTERM"):
            cluster.brokers[which].stop()
            cluster.start(which)


def rebalance_storm(run: Run) -> Phase:
    """Workers come and go as quickly as the group settles, in a group of each protocol."""
    phase, goals = Phase("rebalances", run.share), GOALS["rebalances"]
    targets = {protocol: run.times(goals[f"rebalance, {protocol}"]) for protocol in PROTOCOLS}
    with local_kafka() as kafka, contextlib.ExitStack() as stack:
        logs = Logs(kafka.data())
        streams = [
            stack.enter_context(_stream(kafka, run.logs(f"rebalances-{protocol}"), protocol, 300, partitions=12))
            for protocol in PROTOCOLS
        ]

        def storm(stream: Stream) -> None:
            for changes in come_and_go(stream):
                if changes % 10 == 0:
                    done = rebalances(logs, stream.group)
                    run.tell(f"{phase.name}, {stream.protocol}", done, targets[stream.protocol], written(stream))
                    if done >= targets[stream.protocol]:
                        return

        with ThreadPoolExecutor(len(streams)) as pool:
            for work in [pool.submit(storm, stream) for stream in streams]:
                work.result()
        _close(phase, run, streams)
        for stream in streams:
            phase.faults[f"rebalance, {stream.protocol}"] = rebalances(logs, stream.group)
    return phase


def come_and_go(stream: Stream) -> Iterator[int]:
    """One more worker, or one less, at each step; never none. Yields how many steps there were."""
    chance, left = random.Random(SEED), 0
    slots = {slot: stream.start(slot) for slot in "ab"}
    for changes in itertools.count(1):
        if len(slots) < 2 or (len(slots) < WORKERS_MAX and chance.random() < 0.5):
            slot = next(one for one in "abcdefgh" if one not in slots)
            slots[slot] = stream.start(slot)
            slots[slot].wait_for("partitions assigned", 60)
        else:
            worker, left = slots.pop(chance.choice(sorted(slots))), left + 1
            if left % KILL_EVERY == 0:
                worker.kill()
            elif (status := worker.stop(60)) != 0:
                raise AssertionError(f"a worker that was stopped ended with {status}:\n{worker.log()[-3000:]}")
        yield changes


def ambiguous_ends(run: Run) -> Phase:
    """Ends of transactions whose answer is lost, or which arrive late, by a proxy between workers and broker."""
    phase = Phase("ambiguous", run.share)
    with proxied_kafka("127.0.0.1") as (kafka, (proxy,)):
        result = ambiguous.run(kafka, proxy, run.logs("ambiguous"), run.times(GOALS["ambiguous"]["ambiguous EndTxn"]))
    phase.events, phase.transactions, phase.torn = result.events, result.transactions, result.torn
    phase.lost, phase.duplicated = result.lost, result.duplicated
    phase.reordered, phase.wrong, phase.left_open = result.reordered, result.wrong, result.left_open
    phase.faults["ambiguous EndTxn"] = result.injected
    phase.seconds = round(time.monotonic() - run.began, 1)
    return phase


PHASES: Mapping[str, Callable[[Run], Phase]] = {
    "kills": kills,
    "brokers": brokers,
    "rebalances": rebalance_storm,
    "ambiguous": ambiguous_ends,
}


def written(stream: Stream) -> int:
    """How many events the topic holds now."""
    return sum(stream.ends().values())


def _stream(kafka: Kafka | Cluster, folder: Path, protocol: str, rate: int, partitions: int = 6) -> Stream:
    return Stream(
        kafka, folder, protocol=protocol, rate=rate, partitions=partitions, broken_every=BROKEN_EVERY, read_s=READ_S
    )


def _close(phase: Phase, run: Run, streams: Sequence[Stream]) -> None:
    """Let the streams run on to the phase's number of events, end them, and judge."""
    want = run.times(EVENTS[phase.name]) // len(streams)
    for stream in streams:
        while (have := written(stream)) < want:
            run.tell(f"{phase.name}, more events", have, want, have)
            time.sleep(10)
    for stream in streams:
        judge(phase, stream)
    if not phase.exact():
        streams[0].keep_brokers(run.folder)
    phase.seconds = round(time.monotonic() - run.began, 1)


def judge(phase: Phase, stream: Stream) -> None:
    """End a stream and add what is wrong with it."""
    stream.drain(FINISH_S)
    inputs, outputs = stream.inputs(), stream.outputs()
    report = check(inputs, outputs)
    found = audit(Logs(stream.kafka.data()), stream.group, inputs, outputs)
    phase.events += report.inputs
    phase.transactions += found.committed
    for name in ("lost", "duplicated", "reordered"):
        setattr(phase, name, getattr(phase, name) + len(getattr(report, name)))
    phase.wrong += len(report.wrong) + len(report.foreign)
    phase.torn += len(found.torn)
    phase.left_open += len(found.open)
    phase.notes += [str(report)] * bool(report.complaints) + found.torn[:5] + found.open[:5]
