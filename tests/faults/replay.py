"""`streamer replay` under kill -9: dead letters go in, processes die at every step, and the source topic is counted.

python -m tests.faults.replay --letters 100000
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from schemas.topics import dead_letters
from streamer import cli
from streamer.kafka import clients
from streamer.wire import headers
from tests.faults import worker_main
from tests.faults.worker_main import Failpoint, OpenProducer
from tests.services import create_topic, kafka_service, read_topic, start_kafka, unique

POINTS = (
    "after producer.init_transactions",
    "after producer.begin_transaction",
    "after producer.produce",
    "before producer.send_offsets_to_transaction",
    "after producer.send_offsets_to_transaction",
    "before producer.commit_transaction",
    "after producer.commit_transaction",
)
"""Every step of a replay at which its process may die."""
PARTITIONS = 4
ABORT_EVERY = 5
IN_A_TRANSACTION = 500

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([worker_main.__name__, __name__])


@dataclass(frozen=True)
class Run:
    """One process: where it dies, if it does, and a planted bug."""

    bootstrap: str
    dlq: str
    output: str
    die_at: tuple[str, int] | None = None
    words: tuple[str, ...] = ()
    how: int = signal.SIGKILL
    bug: str | None = None


@dataclass
class Verdict:
    """The source topic against the letters."""

    letters: int
    lost: int
    duplicated: int
    reordered: int

    @property
    def exact(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered)


def bury(bootstrap: str, source: str, letters: int) -> None:
    """Write dead letters as the engine does, in transactions of which some are aborted."""
    create_topic(bootstrap, source, PARTITIONS)
    create_topic(bootstrap, dead_letters(source), PARTITIONS)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": unique("engine"), "linger.ms": 5})
    producer.init_transactions(30)
    for number, first in enumerate(range(0, letters, IN_A_TRANSACTION)):
        aborted = [producer.abort_transaction] if number % ABORT_EVERY == 0 else []
        for finish in (*aborted, producer.commit_transaction):
            producer.begin_transaction()
            for offset in range(first, min(first + IN_A_TRANSACTION, letters)):
                _bury_one(producer, source, offset)
            producer.flush(30)
            finish(30)


def _bury_one(producer: Producer, source: str, number: int) -> None:
    partition = number % PARTITIONS
    said = {
        headers.DLQ_TOPIC: source,
        headers.DLQ_PARTITION: str(partition),
        headers.DLQ_OFFSET: str(number // PARTITIONS),
        headers.DLQ_GROUP: "g",
        headers.DLQ_MESSAGE: "m",
        headers.DLQ_ERROR: "E",
        headers.REASON: ("invalid", "model-error")[number // PARTITIONS % 2],
        headers.WORKER: "echo",
        headers.ATTEMPTS: "1",
    }
    carried: list[Any] = [(name, text.encode()) for name, text in said.items()]
    producer.produce(dead_letters(source), b"%d" % number, b"k%d" % partition, partition, headers=carried)


def main_of(run: Run) -> None:
    """The process: the real command line, whose producer may kill it."""
    worker_main._die_with_parent()
    die = Failpoint(run)
    clients.Producer = functools.partial(_producer, die, run)  # type: ignore[assignment,misc]
    os.environ.pop(kafka_service.VARIABLE, None)  # no setting of streamer's
    server = f"kafka.bootstrap_servers={run.bootstrap}"
    sys.argv = ["streamer", "replay", "--dlq", run.dlq, "--set", server, "--set", "allow_insecure=true", *run.words]
    with open(run.output, "a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        cli.main()


def _producer(die: Failpoint, run: Run, config: dict[str, Any], **more: Any) -> OpenProducer:
    producer = OpenProducer(config, **more)
    if run.bug == "no notes":
        producer.send_offsets_to_transaction = lambda *_: None  # type: ignore[method-assign]
    calls = ("init_transactions", "begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction")
    die.watch(producer, "producer", *calls)
    return producer


def start(run: Run) -> ForkServerProcess:
    """Start it."""
    process = _CONTEXT.Process(target=main_of, args=(run,), daemon=True)
    process.start()
    return process


def replay_among_kills(run: Run, points: Sequence[tuple[str, int]], kills: int, seed: int) -> int:
    """Replay to the end by processes that die at each of these points, and then at random moments. How many died."""
    died = 0
    for point in points:
        process = start(Run(run.bootstrap, run.dlq, run.output, point, run.words, bug=run.bug))
        process.join(60)
        died += process.exitcode == -signal.SIGKILL
    chance = random.Random(seed)
    for _ in range(kills):
        process = start(run)
        process.join(chance.uniform(0.5, 2.5))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join(10)
            died += 1
    process = start(run)
    process.join(240)
    if process.exitcode != 0:
        raise AssertionError(f"replay ended with {process.exitcode}: {Path(run.output).read_text()[-2000:]}")
    return died


def judge(bootstrap: str, source: str, letters: int) -> Verdict:
    """Read the source topic as a careful reader does, and compare."""
    messages = read_topic(bootstrap, source, timeout_s=120)
    numbers = [int(message.value() or b"") for message in messages]
    times = Counter(numbers)
    lanes: dict[int, list[int]] = {}
    for message, number in zip(messages, numbers, strict=True):
        lanes.setdefault(message.partition() or 0, []).append(number)
    back = sum(b < a for lane in lanes.values() for a, b in itertools.pairwise(dict.fromkeys(lane)))
    return Verdict(letters, letters - len(times), sum(count - 1 for count in times.values()), back)


def main() -> None:
    """Bury, replay among kills, and print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--letters", type=int, default=100_000)
    options.add_argument("--kills", type=int, default=10, help="at random moments, beside one at each step")
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    with start_kafka() as kafka, tempfile.TemporaryDirectory() as folder:
        source = unique("letters")
        bury(kafka.bootstrap, source, chosen.letters)
        began = time.monotonic()
        output = f"{folder}/replay.log"
        run = Run(kafka.bootstrap, dead_letters(source), output)
        points = [(point, 1 if "init" in point else 3 + number) for number, point in enumerate(POINTS)]
        died = replay_among_kills(run, points, chosen.kills, chosen.seed)
        seconds = time.monotonic() - began
        verdict = judge(kafka.bootstrap, source, chosen.letters)
    print(
        f"{verdict.letters:,} dead letters replayed through {died} kill -9 in {seconds:.0f} s "
        f"({verdict.letters / seconds:,.0f}/s): {verdict.lost} lost, {verdict.duplicated} duplicated, "
        f"{verdict.reordered} out of order"
    )
    sys.exit(not verdict.exact)


if __name__ == "__main__":
    main()
