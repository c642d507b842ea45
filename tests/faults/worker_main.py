"""One worker process: the real `streamer.app.run`, that may kill itself at a step, or carry a planted bug.

Production code is not touched: the methods of the engine's parts and of the producer are wrapped on the way in.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Producer

from streamer import app, log
from streamer.checkpoint import CommitPolicy
from streamer.engine import Engine, Limits, Parts
from streamer.errors import Exit
from streamer.settings import Settings
from streamer.sink import AtLeastOnceSink, TransactionalSink
from streamer.worker import Tensors
from tests.echo import Echo

POINTS = (
    "before producer.init_transactions",
    "after producer.init_transactions",
    "after source.poll",
    "after codec.decode_many",
    "before runner.submit",
    "after runner.submit",
    "after runner.finished",
    "before sink.write",
    "after sink.write",
    "before sink.commit",
    "after source.group",
    "before producer.begin_transaction",
    "after producer.begin_transaction",
    "before producer.produce",
    "after producer.produce",
    "before producer.send_offsets_to_transaction",
    "after producer.send_offsets_to_transaction",
    "before producer.commit_transaction",
    "after producer.commit_transaction",
    "after sink.commit",
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


@dataclass(frozen=True)
class Plan:
    """What a worker process does. `die_at` is a failpoint and on which of its hits; `bug` is one of `BUGS`."""

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
    bug: str | None = None


class SlowEcho(Echo):
    """Takes its time, so that faults hit while a batch is on the device."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.source = plan.source  # type: ignore[misc]
        self.target = plan.target  # type: ignore[misc]
        self._seconds = plan.seconds_per_batch

    def predict(self, tensors: Tensors) -> Tensors:
        time.sleep(self._seconds)
        self.runs.clear()
        return super().predict(tensors)


def main(plan: Plan) -> None:
    """Serve as the plan says; ends the process like `streamer run` does."""
    _die_with_parent()
    os.dup2(os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    log.configure("info", "json")
    die = Failpoint(plan.die_at)
    make_producer = functools.partial(_producer, die, BUGS[plan.bug] if plan.bug else None)
    app.TransactionalSink = functools.partial(TransactionalSink, make_producer=make_producer)  # type: ignore[misc]
    app.AtLeastOnceSink = functools.partial(AtLeastOnceSink, make_producer=make_producer)  # type: ignore[misc]
    app.Engine = functools.partial(_engine, die)  # type: ignore[misc,assignment]
    try:
        app.run(_settings(plan), SlowEcho(plan))
    except Exit as error:
        print(f"streamer: {error}", file=sys.stderr, flush=True)
        sys.exit(error.code)


class Failpoint:
    """Ends the process, as the kernel would for lack of memory, when its point is reached the nth time."""

    def __init__(self, die_at: tuple[str, int] | None) -> None:
        self._point, self._left = die_at or ("", 0)

    def reached(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, part: Any, label: str, *methods: str) -> None:
        """Report the beginning and the end of each call. One that brings nothing does not count as ended."""
        for method in methods:
            setattr(part, method, self._watched(getattr(part, method), f"{label}.{method}"))

    def _watched(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self.reached(f"before {name}")
            result = call(*args, **options)
            if result != []:
                self.reached(f"after {name}")
            return result

        return watched


class OpenProducer(Producer):
    """A producer whose methods can be replaced one by one."""


Bug = Callable[[OpenProducer], None]


def early_offsets(producer: OpenProducer) -> None:
    """Positions run ahead of what was published: the classic of who commits `position()` with a prefetch."""
    send = producer.send_offsets_to_transaction

    def ahead(offsets: list[Any], *rest: Any) -> None:
        for one in offsets:
            one.offset += 20
        send(offsets, *rest)

    producer.send_offsets_to_transaction = ahead  # type: ignore[method-assign]


def late_offsets(producer: OpenProducer) -> None:
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


def no_fence(producer: OpenProducer) -> None:
    """Offsets are not fenced by the group's generation: a refused commit is made without them."""
    send = producer.send_offsets_to_transaction
    commit = producer.commit_transaction

    def careless(*args: Any) -> None:
        try:
            send(*args)
        except Exception:
            producer.abort_transaction(5)
            producer.begin_transaction()

    producer.send_offsets_to_transaction = careless  # type: ignore[method-assign]
    producer.commit_transaction = commit  # type: ignore[method-assign]


BUGS: dict[str, Bug] = {"early offsets": early_offsets, "late offsets": late_offsets, "no fence": no_fence}


def _producer(die: Failpoint, bug: Bug | None, config: dict[str, Any]) -> OpenProducer:
    producer = OpenProducer(config)
    if bug is not None:
        bug(producer)
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
    die.watch(parts.codec, "codec", "decode_many")
    die.watch(parts.runner, "runner", "submit", "finished")
    die.watch(parts.sink, "sink", "write", "commit")
    return Engine(parts, limits, policy)


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
        }
    )


def _die_with_parent() -> None:
    """Leave no worker behind when the tests are killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
