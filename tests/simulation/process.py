"""One worker process of a schedule: the real engine, source and sink on the doubles, and its line to the broker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import KafkaError

from streamer.cache.answers import ContentKey
from streamer.clock import Deadline
from streamer.engine.batcher import Batcher, CostModel
from streamer.engine.checkpoint import CommitPolicy
from streamer.engine.loop import Engine, Limits, Parts
from streamer.errors import Exit, Wait
from streamer.features.reading import NoFeatures
from streamer.kafka.exactly_once import TransactionalSink
from streamer.kafka.source import KafkaSource
from streamer.records import BatchPolicy
from streamer.telemetry.health import Health
from streamer.testing import FakeCache
from tests.simulation.consumer import SimConsumer
from tests.simulation.group import Refusal
from tests.simulation.parts import SOURCE, Codec, Committer, Doubler, NoMetrics, Runner, SharingDoubler
from tests.simulation.producer import SimProducer
from tests.simulation.wire import Lost

T = TypeVar("T")
ABORTABLE = ("AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "Produce")
"""Requests that the broker may answer with "abort and try again"."""


class Killed(BaseException):
    """The process ended here; nothing of it runs any more."""


class Process:
    """A worker process, alive until it is killed, exits or has drained; it is also the wire of its clients."""

    def __init__(self, world: Any, name: str, slot: int) -> None:
        self.world = world
        self.broker = world.broker
        self.clock = world.clock
        self.name = name
        self.slot = slot
        self.state = "starting"  # running, dead, gone
        self.frozen = False
        self.busy = False
        self.cut_until = 0.0
        self.draining = False
        self.consumer: Any = None
        self._build()

    # -- its life

    @property
    def alive(self) -> bool:
        return self.state in ("starting", "running")

    def step(self) -> None:
        """One turn of its owner thread."""
        self.busy = True
        try:
            self._step()
        except Killed:
            self._end("dead")
        except Exit as error:
            self.world.say(f"{self.name} exits: {error}")
            self.world.count("exits")
            self._fall(error)
        finally:
            self.busy = False

    def kill(self) -> None:
        """As kill -9; in the midst of a call it takes effect at once."""
        self.world.count("kill -9")
        self._end("dead")

    def free(self) -> None:
        """Break the cycle of items and lanes, which the collector does not look at."""
        self.engine._ledger.forget(self.engine._ledger.partitions())

    def _step(self) -> None:
        if self.state == "starting":
            try:
                self.sink.recover(Deadline(self.clock, 5.0))
            except Wait:
                return self.clock.sleep(1.0)
            self.engine.start()
            self.state = "running"
        elif self.draining:
            self.engine.drain(Deadline(self.clock, 25.0))
            self._end("gone")
        else:
            self.engine.step()
        return None

    def _fall(self, error: Exit) -> None:
        """What `Engine.run` does when a step raises: let it raise, at the place where it would have."""

        def fail(*args: Any) -> None:
            raise error

        self.engine.start, self.engine.step = lambda: None, fail  # type: ignore[method-assign]
        self.engine._stopping = False
        try:
            with suppress(Exit):
                self.engine.run()
            self._end("gone")
        except Killed:
            self._end("dead")

    def _end(self, state: str) -> None:
        if self.alive:
            self.world.say(f"{self.name} is {state}")
            self.state = state

    def _build(self) -> None:
        plan, clock = self.world.plan, self.clock
        client = {"group.protocol": plan.protocol, "group.id": "g"}
        self.source: Any = KafkaSource(client, SOURCE, "earliest", clock, self._make_consumer)
        self.sink: Any = TransactionalSink(
            {}, f"g.{self.slot}", self.source, SOURCE, clock, self._make_producer, lambda *_: ""
        )
        costs = CostModel()
        worker = SharingDoubler() if plan.shares else Doubler()
        parts = Parts(
            worker=worker,
            source=self.source,
            sink=self.sink,
            committer=Committer(self, plan.commit_s),
            codec=Codec(),
            cache=FakeCache(),
            content_key=ContentKey(b"simulation", worker.name, "", ""),
            features=NoFeatures(),
            batcher=Batcher(BatchPolicy(items_max=plan.items_max, linger_s=plan.linger_s), costs),
            costs=costs,
            runner=Runner(clock, plan.batch_s),
            clock=clock,
            metrics=NoMetrics(),  # type: ignore[arg-type]
            health=Health(clock),
        )
        limits = Limits(poll_max=plan.poll_max, in_flight_max=plan.in_flight_max, dead_ratio_max=1.0)
        self.engine = Engine(parts, limits, CommitPolicy())
        self.world.bug(self)

    def _make_consumer(self, config: Any, logger: Any) -> SimConsumer:
        self.consumer = SimConsumer(config, self)
        return self.consumer  # type: ignore[no-any-return]

    def _make_producer(self, config: Any) -> SimProducer:
        return SimProducer(config, self)

    # -- faults of its own

    def hangs(self) -> bool:
        """Whether the commit that begins now does not return."""
        return self.world.strikes("hung commits", self.world.plan.hang)

    def left_behind(self, thread: Callable[[], None]) -> None:
        """A thread that hangs in a client may go on at any time while the process lives."""

        def wake() -> None:
            if self.alive and not self.frozen:
                self.world.say(f"{self.name}: a commit that was left behind goes on")
                with suppress(Killed):
                    thread()

        self.broker.later(self.world.random.choice((0.001, 0.5, 3.0, 8.0)), wake)

    # -- its line

    def now(self) -> float:
        return self.clock.now()  # type: ignore[no-any-return]

    def time_ms(self) -> int:
        return self.clock.time_ms()  # type: ignore[no-any-return]

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def enter(self, call: str) -> None:
        if not self.alive:
            raise Killed

    def up(self) -> bool:
        return self.alive and not self.frozen and self.cut_until <= self.clock.now()

    def sends_ahead(self) -> bool:
        return self.up() and self.world.random.random() < 0.5

    def mistakes_loss(self) -> bool:
        return self.world.strikes("losses told as revokes", self.world.plan.mistake)

    def deliver(self, name: str, request: Callable[[], T]) -> T:
        world = self.world
        world.interrupt(self, f"before {name}")
        self.enter(name)
        world.straggle(name)
        fate = world.fate(self, name)
        if fate == "late":
            world.delay(request)
        if fate in ("lost", "late"):
            world.say(f"{self.name}: {name} is {fate}")
            raise self._lost()
        if fate == "abort":
            world.say(f"{self.name}: {name} is refused for now")
            raise Refusal(KafkaError.TRANSACTION_ABORTABLE)
        try:
            answer = request()
        except Refusal as error:
            world.say(f"{self.name}: {name}: {error}")
            raise
        if fate == "unanswered":
            world.say(f"{self.name}: {name} is done, and the answer lost")
            raise self._lost()
        world.say(f"{self.name}: {name}")
        world.interrupt(self, f"after {name}")
        self.enter(name)
        return answer

    def _lost(self) -> Lost:
        """The client rests before it sends again: `retry.backoff.ms` of the sink, less a fifth at most."""
        code = self.world.random.choice((KafkaError._TRANSPORT, KafkaError._TIMED_OUT))
        return Lost(code, self.world.random.choice((0.08, 0.3, 1.5)))
