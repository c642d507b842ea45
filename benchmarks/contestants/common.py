"""What every contestant has: the same command line, and the same way to end."""

from __future__ import annotations

import argparse
import signal
from types import FrameType

CONSUMER = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "fetch.queue.backoff.ms": 5,  # the default of 1,000 lets a loop that drains its queue stand idle
    "fetch.wait.max.ms": 50,
}
"""What every consumer on librdkafka gets."""

PRODUCER = {"enable.idempotence": True, "linger.ms": 1}
"""What every producer on librdkafka gets."""


def parser(about: str | None) -> argparse.ArgumentParser:
    """The arguments that all contestants take."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    made.add_argument("--source", required=True, metavar="TOPIC")
    made.add_argument("--target", required=True, metavar="TOPIC")
    made.add_argument("--group", required=True, help="the consumer group; it begins where it has committed")
    made.add_argument("--work", required=True, choices=("tabular", "flat", "text"))
    return made


def options() -> argparse.Namespace:
    """The command line of a contestant without arguments of its own."""
    return parser(None).parse_args()


class Stop:
    """False until SIGTERM or Ctrl-C: `stop = Stop()`, then `while not stop: ...`."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked
