"""A schedule: what happens to a few workers and a broker, drawn from one seed. No threads, no time but its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from streamer.testing import ManualClock
from tests.simulation import oracle
from tests.simulation.broker import Broker, Data
from tests.simulation.group import Group
from tests.simulation.parts import DEAD, SOURCE, TARGET
from tests.simulation.process import ABORTABLE, Process

PROCESSES_MAX = 4
DEPTH_MAX = 2
HEAL_ROUNDS = 300
ENDS = 4.0
"""How much more often than others the request that ends a transaction is hit: all depends on it."""
FATES = (b"answer",) * 6 + (b"dead", b"broken", b"skip")
PAUSES_S = (0.01, 0.1, 0.1, 1.0, 1.0, 2.5, 4.0, 7.0, 7.0, 20.0, 310.0)


class Broken(Exception):
    """A promise did not hold."""


@dataclass(frozen=True)
class Plan:
    """What stays the same through one schedule. Numbers named after faults are their odds at each occasion."""

    steps: int
    partitions: int
    targets: int
    workers: int
    protocol: str
    warm: bool
    shares: bool
    commit_s: float
    batch_s: float
    linger_s: float
    items_max: int
    poll_max: int
    in_flight_max: int
    marker_s: tuple[float, ...]
    wire: float
    interrupt: float
    chaos: float
    hang: float
    mistake: float


def draw(random: Random) -> Plan:
    """A plan: few are wild in every way."""
    pick = random.choice
    return Plan(
        steps=pick((10, 20, 30, 40, 60)),
        partitions=pick((1, 2, 3)),
        targets=pick((1, 2, 3)),
        workers=pick((1, 2, 2, 3)),
        protocol=pick(("classic", "consumer")),
        warm=pick((True, True, True, False)),
        shares=pick((False, False, True)),
        commit_s=pick((0.0, 0.002, 0.002, 0.3)),
        batch_s=pick((0.0, 0.001, 0.02, 0.5)),
        linger_s=pick((0.0, 0.0, 0.005)),
        items_max=pick((1, 2, 5)),
        poll_max=pick((1, 3, 10)),
        in_flight_max=pick((2, 6, 30)),
        marker_s=pick(((0.0,), (0.0,), (0.0, 0.002), (0.0, 0.005, 0.5), (0.5, 2.0))),
        wire=pick((0.0, 0.02, 0.06, 0.15)),
        interrupt=pick((0.0, 0.03, 0.1, 0.25)),
        chaos=pick((0.05, 0.2, 0.4)),
        hang=pick((0.0, 0.0, 0.0, 0.05)),
        mistake=pick((0.0, 0.3)),
    )


class Clock(ManualClock):
    """When time passes, the broker does what is due."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._world.broker.advance(self.now())


class World:
    """All of one schedule. `bug` plants a bug in each process that starts; `say` hears what happens."""

    def __init__(
        self, seed: int, bug: Callable[[Process], None] = lambda process: None, say: Callable[[str], None] | None = None
    ) -> None:
        self.random = Random(seed)
        self.plan = draw(self.random)
        self.bug = bug
        self.faults: Counter[str] = Counter()
        self.chaos = True
        self._say = say
        topics = {SOURCE: self.plan.partitions, TARGET: self.plan.targets, DEAD: self.plan.targets}
        self.broker = Broker(topics, Group(self.plan.partitions, self.plan.protocol), self._marker_delay)
        self.clock = Clock(self)
        self.processes: list[Process] = []
        self._stragglers: list[Callable[[], object]] = []
        self._books = oracle.Books(self.broker)
        self._steps_left = self.plan.steps
        self._depth = 0
        self._number = 0
        self._upstreams: dict[str, tuple[int, list[int]]] = {}
        self._actions = [
            (self._write, 12), (self._write_in_transaction, 3), (self._end_upstream, 2), (self._kill, 2),
            (self._start, 4), (self._stop, 1), (self._freeze, 2), (self._thaw, 3), (self._cut, 2),
            (self._double, 1), (self._wait, 5),
        ]  # fmt: skip
        self._weights = [weight for _, weight in self._actions]
        self._calls = [action for action, _ in self._actions]

    def run(self) -> None:
        """The whole schedule: chaos, then healing, then the verdict.

        Raises:
            Broken: a promise did not hold. Anything else: the engine fell over.
        """
        self.say(str(self.plan))
        try:
            for slot in range(self.plan.workers):
                self._launch(slot)
            if self.plan.warm:
                self._warm_up()
            while self._steps_left > 0:
                self._act()
            self._heal()
            self._books.close()
        finally:
            for process in self.processes:
                process.free()
        if complaints := self._books.complaints():
            raise Broken("; ".join(complaints))

    def _warm_up(self) -> None:
        """Everybody has joined, and there is work."""
        self.chaos = False
        for _ in range(4):
            for process in self.processes:
                process.step()
        for _ in range(5):
            self._write()
        self.chaos = True

    # -- what processes ask

    def say(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{self.clock.now():9.3f} {'  ' * self._depth}{text}")

    def count(self, fault: str) -> None:
        self.faults[fault] += 1

    def strikes(self, fault: str, odds: float) -> bool:
        """Whether a fault happens here."""
        if not self.chaos or self.random.random() >= odds:
            return False
        self.count(fault)
        return True

    def fate(self, process: Process, name: str) -> str:
        """What becomes of a request: ok, lost, late (and lost for its sender), unanswered, abort."""
        if not self.chaos:
            return "ok"
        if process.cut_until > self.clock.now():
            fate = self.random.choice(("lost", "lost", "late", "unanswered"))
        elif self.random.random() < self.plan.wire * (ENDS if name == "EndTxn" else 1.0):
            fate = self.random.choice(("lost", "late", "late", "unanswered", "abort"))
        else:
            return "ok"
        if fate == "abort" and name not in ABORTABLE:
            return "ok"
        self.count(f"{name} {fate}")
        if name == "EndTxn" and self.random.random() < 0.3:
            process.cut_until = self.clock.now() + self.random.choice((1.0, 6.0))
        return fate

    def delay(self, request: Callable[[], object]) -> None:
        """This request arrives late: after some time, or just before one of those that come."""
        if self.random.random() < 0.5:
            self.broker.later(self.random.choice((0.003, 0.05, 0.4, 2.0, 7.0)), request)
        else:
            self._stragglers.append(request)

    def straggle(self, name: str) -> None:
        """One that was late may arrive now, before this one; its own second copy would hide it."""
        if self._stragglers and name != "EndTxn" and self.random.random() < 0.25:
            self.say("a late request arrives")
            self.broker.later(0.0, self._stragglers.pop(0))
            self.broker.advance(self.clock.now())

    def interrupt(self, process: Process, place: str) -> None:
        """In the midst of a call: the process may be killed, frozen, or slow, while the others go on."""
        if not self.chaos or self._depth >= DEPTH_MAX or self._steps_left <= 0:
            return
        if self.random.random() < self.plan.interrupt:
            self._strike(process, place)

    def _strike(self, process: Process, place: str) -> None:
        what = self.random.choice(("kill", "freeze", "freeze", "slow", "slow"))
        self.say(f"{process.name}: {what} {place}")
        if what == "kill":
            process.kill()
            return
        self.count(f"{what} in a call")
        frozen, process.frozen = process.frozen, what == "freeze" or process.frozen
        self._depth += 1
        for _ in range(self.random.choice((1, 2, 4, 8))):
            self._act()
        self._depth -= 1
        process.frozen = frozen
        if self.random.random() < 0.5:  # its client's threads wake up before its owner does
            self.broker.advance(self.clock.now())

    # -- what happens

    def _act(self) -> None:
        self._steps_left -= 1
        if self.random.random() < self.plan.chaos:
            self.random.choices(self._calls, self._weights)[0]()
            return
        ready = [process for process in self.processes if process.alive and not process.busy and not process.frozen]
        if ready:
            self._step(self.random.choice(ready))

    def _step(self, process: Process) -> None:
        self.say(f"{process.name} steps")
        process.step()

    def _write(self) -> None:
        for _ in range(self.random.choice((1, 2, 5))):
            partition = self._partition()
            self.broker.logs[SOURCE, partition].append(self._event(partition, 0))

    def _write_in_transaction(self) -> None:
        """An upstream of ours writes in a transaction, and leaves it open."""
        if len(self._upstreams) >= 2:
            return
        name = f"upstream-{self._number}"
        partitions = [self._partition() for _ in range(self.random.choice((1, 3)))]
        _, epoch = self.broker.init_producer_id(name, 30.0)
        self.broker.add_partitions(name, epoch, {(SOURCE, number) for number in partitions})
        sequences: Counter[int] = Counter()
        for number in partitions:
            self.broker.produce(name, epoch, (SOURCE, number), [(sequences[number], self._event(number, -1))])
            sequences[number] += 1
        self._upstreams[name] = (epoch, partitions)
        self.say(f"{name} writes to {partitions}")

    def _end_upstream(self) -> None:
        if not self._upstreams:
            return
        name = min(self._upstreams)
        epoch, _ = self._upstreams.pop(name)
        committed = self.random.random() < 0.6
        self.say(f"{name} {'commits' if committed else 'aborts'}")
        if self.broker.transactions[name].epoch == epoch:  # it may have been timed out
            self.broker.end_transaction(name, epoch, committed)
            self.count("upstream commits" if committed else "upstream aborts")

    def _kill(self) -> None:
        if process := self._one(lambda process: process.alive):
            self.say(f"kill -9 of {process.name}")
            process.kill()

    def _start(self) -> None:
        """The next process of a slot that has none."""
        taken = {process.slot for process in self.processes if process.alive}
        free = [slot for slot in range(PROCESSES_MAX - 1) if slot not in taken]
        if free:
            self._launch(self.random.choice(free))

    def _double(self) -> None:
        """A second process of a slot: its first is thought dead, and is not."""
        if self._living() < PROCESSES_MAX and (process := self._one(lambda process: process.alive)):
            self.count("two of one slot")
            self._launch(process.slot)

    def _stop(self) -> None:
        if process := self._one(lambda process: process.state == "running" and not process.busy):
            self.say(f"SIGTERM for {process.name}")
            self.count("SIGTERM")
            process.draining = True

    def _freeze(self) -> None:
        if process := self._one(lambda process: process.alive and not process.frozen and not process.busy):
            self.say(f"SIGSTOP of {process.name}")
            self.count("SIGSTOP")
            process.frozen = True

    def _thaw(self) -> None:
        if process := self._one(lambda process: process.frozen and not process.busy):
            self.say(f"SIGCONT of {process.name}")
            process.frozen = False

    def _cut(self) -> None:
        if process := self._one(lambda process: process.alive):
            seconds = self.random.choice((0.2, 3.0, 8.0))
            self.say(f"{process.name} is cut off for {seconds} s")
            self.count("line cut")
            process.cut_until = self.clock.now() + seconds

    def _wait(self) -> None:
        seconds = self.random.choice(PAUSES_S)
        self.say(f"{seconds} s pass")
        self.clock.sleep(seconds)

    # -- the end

    def _heal(self) -> None:
        self.say("healing")
        self.chaos = False
        for request in self._stragglers:
            self.broker.later(self.random.random(), request)
        while self._upstreams:
            self._end_upstream()
        for process in self.processes:
            process.frozen, process.cut_until = False, 0.0
        for _ in range(HEAL_ROUNDS):
            if not any(process.alive and not process.draining for process in self.processes):
                self._launch(0)
            for process in self.processes:
                if process.alive:
                    self._step(process)
            self.clock.sleep(0.2)
            if self._books.drained() and not any(process.draining and process.alive for process in self.processes):
                break
        else:
            raise Broken(f"not drained after {HEAL_ROUNDS} rounds: {self._books.behind()}")
        for process in self.processes:
            if process.alive:
                process.draining = True
                self._step(process)
        self.clock.sleep(60.0)  # whatever is still open is timed out

    # -- help

    def _launch(self, slot: int) -> None:
        process = Process(self, f"worker {slot}.{len(self.processes)}", slot)
        self.say(f"{process.name} starts")
        self.processes.append(process)

    def _one(self, suits: Callable[[Process], Any]) -> Process | None:
        found = [process for process in self.processes if suits(process)]
        return self.random.choice(found) if found else None

    def _living(self) -> int:
        return sum(process.alive for process in self.processes)

    def _partition(self) -> int:
        return self.random.randrange(self.plan.partitions)

    def _event(self, partition: int, serial: int) -> Data:
        self._number += 1
        fate = self.random.choice(FATES)
        number = self.random.randrange(4) if self.plan.shares else self._number
        key = b"%d%d" % (partition, self._number % 2)
        return Data(key, b"%d:%b" % (number, fate), None, self.clock.time_ms(), serial)

    def _marker_delay(self) -> float:
        return self.random.choice(self.plan.marker_s) if self.chaos else 0.0
