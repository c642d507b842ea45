"""One worker process: the real `streamer.app.run`, that may kill itself at a step, or carry a planted bug.

Production code is not touched: the methods of the engine's parts and of the producer are wrapped on the way in.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, Producer

from streamer import app
from streamer.engine.checkpoint import CommitPolicy
from streamer.engine.loop import Engine, Limits, Parts
from streamer.errors import Exit
from streamer.kafka.at_least_once import AtLeastOnceSink
from streamer.kafka.exactly_once import TransactionalSink
from streamer.settings import Settings
from streamer.slices import Rows
from streamer.telemetry import log
from streamer.worker import Tensors
from tests.echo import Counting, Echo

POINTS = (
    "before producer.init_transactions",
    "after producer.init_transactions",
    "after source.poll",
    "after codec.decode",
    "before runner.submit",
    "after runner.submit",
    "after runner.finished",
    "before sink.write",
    "after sink.write",
    "before sink.hand_over",
    "after sink.hand_over",
    "before sink.begin",
    "after source.group",
    "before producer.begin_transaction",
    "after producer.begin_transaction",
    "before producer.produce",
    "after producer.produce",
    "after sink.begin",
    "before producer.send_offsets_to_transaction",
    "after producer.send_offsets_to_transaction",
    "before producer.commit_transaction",
    "after producer.commit_transaction",
    "before sink.confirm",
    "after sink.confirm",
)
"""Every step of the algorithm at which a process may die, in the order of one commit."""

AT_LEAST_ONCE_POINTS = (
    "after runner.finished",
    "after producer.produce",
    "before producer.flush",
    "after producer.flush",
    "before source.commit",
    "after source.commit",
)


ARM = signal.SIGUSR2


@dataclass(frozen=True)
class Plan:
    """What a worker process does. `die_at` is a failpoint and on which of its hits, 0 for the next one after the signal
    `ARM`; `how` is the signal that it sends itself there; `bug` is one of `BUGS`, `worker` of `WORKERS`. `settings` are
    sections of the settings beside those of the plan; `before`, a function of a module, is called in the process before
    it serves."""

    bootstrap: str
    group: str
    source: str
    target: str
    slot: str
    log: str
    client: Mapping[str, str] = field(default_factory=dict)
    delivery: str = "exactly_once"
    items_max: int = 64
    seconds_per_batch: float = 0.02
    die_at: tuple[str, int] | None = None
    how: int = signal.SIGKILL
    bug: str | None = None
    worker: str = "plain"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    before: Callable[[], None] | None = None


class SlowEcho(Echo):
    """Takes its time, so that faults hit while a batch is on the device."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.source = plan.source  # type: ignore[misc]
        self.target = plan.target  # type: ignore[misc]
        self._seconds = plan.seconds_per_batch

        self.computed = -sum(app.WARM_UP_SIZES)

    def predict(self, tensors: Tensors) -> Tensors:
        time.sleep(self._seconds)
        self.computed += len(tensors["numbers"])
        self.runs.clear()
        return super().predict(tensors)


class SlowCounting(SlowEcho, Counting):
    """And reads features: what `streamer windows` counts."""


WORKERS: Mapping[str, type[SlowEcho]] = {"plain": SlowEcho, "windows": SlowCounting}


def main(plan: Plan) -> None:
    """Serve as the plan says; ends the process like `streamer run` does."""
    os.dup2(os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    if plan.before is not None:
        plan.before()
    _die_with_parent()  # last, as the kernel forgets it when a process changes its user
    faulthandler.register(signal.SIGUSR1)  # where does it hang?
    log.configure("info", "json")
    worker = WORKERS[plan.worker](plan)
    if plan.die_at is not None or plan.bug is not None:
        _tamper(plan)
    try:
        app.run(_settings(plan), worker)
        structlog.get_logger(__name__).info("served", computed=worker.computed)
    except Exit as error:
        print(f"streamer: {error}", file=sys.stderr, flush=True)
        sys.exit(error.code)


def _tamper(plan: Plan) -> None:
    """Put failpoints and the planted bug into what the application is made of. Else it is left as it is: what is put in
    costs time and memory."""
    die = Failpoint(plan)
    make_producer = functools.partial(_producer, die, plan)
    app.TransactionalSink = functools.partial(TransactionalSink, make_producer=make_producer)  # type: ignore[misc]
    app.AtLeastOnceSink = functools.partial(AtLeastOnceSink, make_producer=make_producer)  # type: ignore[misc]
    app.Engine = functools.partial(_engine, die)  # type: ignore[misc,assignment]


class Failpoint:
    """Ends or freezes the process when its point is reached the nth time."""

    def __init__(self, plan: Plan) -> None:
        self._point, self._left = plan.die_at or ("", 0)
        self._how = plan.how
        signal.signal(ARM, self._arm)

    def _arm(self, *_: object) -> None:
        self._left = 1

    def reached(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._how)

    def watch(self, part: Any, label: str, *methods: str) -> None:
        """Report the beginning and the end of each call; one that is given nothing and brings nothing has no end."""
        for method in methods:
            setattr(part, method, self._watched(getattr(part, method), f"{label}.{method}"))

    def _watched(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self.reached(f"before {name}")
            result = call(*args, **options)
            given = [arg for arg in args if isinstance(arg, list | Rows)]
            if result != [] or any(given):
                self.reached(f"after {name}")
            return result

        return watched


class OpenProducer(Producer):
    """A producer whose methods can be replaced one by one."""


Bug = Callable[[OpenProducer, Plan], None]


def early_offsets(producer: OpenProducer, plan: Plan) -> None:
    """Positions run ahead of what was published: the classic of who commits `position()` with a prefetch."""
    send = producer.send_offsets_to_transaction

    def ahead(offsets: list[Any], *rest: Any) -> None:
        for one in offsets:
            one.offset += 20
        send(offsets, *rest)

    producer.send_offsets_to_transaction = ahead  # type: ignore[method-assign]


def late_offsets(producer: OpenProducer, plan: Plan) -> None:
    """Positions lag behind what was published: those of the commit before."""
    send = producer.send_offsets_to_transaction
    before: dict[int, int] = {}

    def behind(offsets: list[Any], *rest: Any) -> None:
        for one in offsets:
            position = one.offset
            one.offset = before.get(one.partition, one.offset)
            before[one.partition] = position
        send(offsets, *rest)

    producer.send_offsets_to_transaction = behind  # type: ignore[method-assign]


def no_fence(producer: OpenProducer, plan: Plan) -> None:
    """Positions carry no membership, so the broker takes them from anybody."""
    send = producer.send_offsets_to_transaction
    nobody = Consumer({"bootstrap.servers": plan.bootstrap, "group.id": plan.group}).consumer_group_metadata()

    def unfenced(offsets: list[Any], group: Any, *rest: Any) -> None:
        send(offsets, nobody, *rest)

    producer.send_offsets_to_transaction = unfenced  # type: ignore[method-assign]


def backwards(producer: OpenProducer, plan: Plan) -> None:
    """Outputs are written in another order than that of the inputs."""
    produce, send = producer.produce, producer.send_offsets_to_transaction
    kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(*args: Any, **options: Any) -> None:
        kept.append((args, options))

    def turn(*args: Any) -> None:
        for positional, named in reversed(kept):
            produce(*positional, **named)
        kept.clear()
        send(*args)

    producer.produce = keep  # type: ignore[method-assign]
    producer.send_offsets_to_transaction = turn  # type: ignore[method-assign]


def deaf(producer: OpenProducer, plan: Plan) -> None:
    """The producer goes on after a commit that may have been sent twice, as if a success left nothing open."""
    TransactionalSink._on_error = lambda self, *said: None  # type: ignore[method-assign]
    TransactionalSink._once = lambda self: contextlib.nullcontext()  # type: ignore[method-assign,assignment,return-value]


def sure(producer: OpenProducer, plan: Plan) -> None:
    """A commit whose outcome is unclear is taken for one that has happened. Sooner than the client asks again, as what
    it learns then is no longer unclear."""
    commit = producer.commit_transaction

    def assume(*_: Any) -> None:
        with contextlib.suppress(KafkaException):
            commit(1)

    producer.commit_transaction = assume  # type: ignore[method-assign]


def apart(producer: OpenProducer, plan: Plan) -> None:
    """Outcomes are committed in one transaction and their positions in the next: exact, if nothing dies in between."""
    send = producer.send_offsets_to_transaction

    def later(*args: Any) -> None:
        producer.commit_transaction(30)
        producer.begin_transaction()
        send(*args)

    producer.send_offsets_to_transaction = later  # type: ignore[method-assign]


BUGS: Mapping[str, Bug] = {
    "early offsets": early_offsets,
    "late offsets": late_offsets,
    "no fence": no_fence,
    "backwards": backwards,
    "apart": apart,
    "deaf": deaf,
    "sure": sure,
}
"""What an engine of this kind gets wrong; planted to see that the tests would notice."""


def _producer(die: Failpoint, plan: Plan, config: dict[str, Any]) -> OpenProducer:
    producer = OpenProducer(config)
    if plan.bug is not None:
        BUGS[plan.bug](producer, plan)
    die.watch(
        producer,
        "producer",
        "init_transactions",
        "begin_transaction",
        "produce",
        "send_offsets_to_transaction",
        "commit_transaction",
        "flush",
    )
    return producer


def _engine(die: Failpoint, parts: Parts, limits: Limits, policy: CommitPolicy) -> Engine:
    die.watch(parts.source, "source", "poll", "group", "commit")
    die.watch(parts.codec, "codec", "decode")
    die.watch(parts.runner, "runner", "submit", "finished")
    die.watch(parts.sink, "sink", "write", "hand_over", "begin", "confirm")
    engine = Engine(parts, limits, policy)
    die.watch(engine, "engine", "assigned", "revoked", "lost")
    return engine


def _settings(plan: Plan) -> Settings:
    return Settings.model_validate(
        {
            "delivery": plan.delivery,
            "device": "cpu",
            "kafka": {
                "bootstrap_servers": plan.bootstrap,
                "group_id": plan.group,
                "slot": plan.slot,
                "client": dict(plan.client),
            },
            "batch": {"items_max": plan.items_max},
            "http": {"port": 0},
            **plan.settings,
        }
    )


def _die_with_parent() -> None:
    """Leave no worker behind when the tests are killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
