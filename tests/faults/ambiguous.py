"""Ends of transactions whose fate nobody can tell: the answer is lost, or the request comes late.

The second is the case in which Jepsen found torn transactions: a late EndTxn of one transaction ends the next.
`python -m tests.faults.ambiguous --count 100` runs it and says what came of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import Report
from tests.faults.proxied import proxied_kafka
from tests.faults.proxy import Proxy
from tests.faults.report import quantile
from tests.faults.stream import Stream
from tests.faults.wire import Api, Hold, Lose, Rule, error_of
from tests.services import Kafka

ACTIONS = (
    Lose("close"),
    Hold(Api.PRODUCE, then="close"),
    Lose("close"),
    Hold(Api.PRODUCE, then="close"),
    Lose("silent"),
    Hold(Api.PRODUCE, then="silent"),
)
"""In turns. After `close` the client asks again at once; after `silent` the engine waits for its deadline of 5 s. What
is held arrives when the same transactional id has the records of a later transaction with the broker."""
RECOVERY_S = 60
NO_ERROR = 0


@dataclass(frozen=True)
class Ambiguity:
    """What came of it: events and faults, complaints of the oracle, and how long until all was answered again."""

    events: int
    injected: int
    late: int
    late_obeyed: int
    lost: int
    duplicated: int
    reordered: int
    wrong: int
    torn: int
    left_open: int
    transactions: int
    recovery_p50_s: float
    recovery_p99_s: float

    @property
    def exact(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.wrong or self.torn or self.left_open)


def inject_ambiguous(stream: Stream, proxy: Proxy, count: int) -> tuple[list[float], list[Rule]]:
    """Hit `count` ends of transactions of a stream whose workers come through the proxy, one after the other.

    Returns the seconds from each fault until all that was written by then was answered, and the rules that hit.
    """
    seconds, rules = [], []
    for action in itertools.islice(itertools.cycle(ACTIONS), count):
        rule = proxy.add(Rule(Api.END_TXN, action, client=stream.group))
        at = rule.wait()
        stream.catch_up(RECOVERY_S)
        seconds.append(time.monotonic() - at)
        rules.append(rule)
        if isinstance(action, Hold):
            _arrived(rule)
    return seconds, rules


def verdict(stream: Stream, report: Report, seconds: Sequence[float], rules: Sequence[Rule]) -> Ambiguity:
    """Compare, when the stream is finished."""
    late = [error_of(answer) for rule in rules for answer in rule.answers]
    found = stream.audit()
    for text in found.torn[:5] + found.open[:5]:
        print(text, file=sys.stderr)
    return Ambiguity(
        events=report.inputs,
        injected=len(rules),
        late=len(late),
        late_obeyed=late.count(NO_ERROR),
        lost=len(report.lost),
        duplicated=len(report.duplicated),
        reordered=len(report.reordered),
        wrong=len(report.wrong) + len(report.foreign),
        torn=len(found.torn),
        left_open=len(found.open),
        transactions=found.committed,
        recovery_p50_s=round(quantile(seconds, 0.5) if seconds else 0.0, 3),
        recovery_p99_s=round(quantile(seconds, 0.99) if seconds else 0.0, 3),
    )


def run(
    kafka: Kafka,
    proxy: Proxy,
    folder: Path,
    count: int,
    *,
    protocol: str = "classic",
    bug: str | None = None,
    client: Mapping[str, str] | None = None,
) -> Ambiguity:
    """A stream of its own, two workers, and `count` ambiguous ends."""
    with Stream(kafka, folder, protocol=protocol, broken_every=50, via=proxy.address) as stream:
        for slot in ("a", "b"):
            stream.start(slot, bug=bug, client=client)
        for worker in stream.workers():
            worker.wait_for("partitions assigned")
        stream.answer(600)
        seconds, rules = inject_ambiguous(stream, proxy, count)
        return verdict(stream, stream.finish(), seconds, rules)


def _arrived(rule: Rule, timeout_s: float = 35) -> None:
    deadline = time.monotonic() + timeout_s
    while not rule.answers:
        if time.monotonic() > deadline:
            raise AssertionError("the late request has not been answered")
        time.sleep(0.02)


def main() -> None:
    """Run by hand: prints the result as JSON; exit status 1 if anything was lost, doubled, moved, torn or left open."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.ambiguous", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--protocol", choices=("classic", "consumer"), default="classic")
    parser.add_argument("--bug", help="plant one of tests.faults.worker_main.BUGS")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamer-ambiguous-") as folder, proxied_kafka("127.0.0.1") as served:
        kafka, (proxy,) = served
        result = run(kafka, proxy, Path(folder), asked.count, protocol=asked.protocol, bug=asked.bug)
    print(json.dumps(vars(result)))
    sys.exit(0 if result.exact else 1)


if __name__ == "__main__":
    main()
