"""A shop's invoices through Kafka, windows and days to both sales workers: `make demo-sales`.

The past is written at once, so that the windows know the customers and every day of the last six weeks has its
forecasts. Then the shop opens, and what it sells comes at a multiple of the pace at which it sold. In the end every
purchase and every article's day must have its one answer, and a page holds the forecasts against what then happened.
Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks.sales.flow import Flow, Places, Shop
from benchmarks.sales.outcomes import Counts, Outcomes
from benchmarks.sales.page import weekly_error, write
from streamer.demo.session import stop_on_signals
from streamer.errors import StreamerError, Unreachable
from tests.data import FOLDER
from tests.services import ServiceError, start_kafka, start_redis
from workers.purchase_propensity import history as customers
from workers.sales_forecast import history as articles

DATA = FOLDER / "online_retail" / "online_retail.csv.gz"
OPENS = "2011-11-10T13:00"
WEEKS = 6
"""Of forecasts before the shop opens."""
SETTLE_S = 300.0
SPEED = 100.0


def main() -> None:
    options = _options()
    console = Console()
    try:
        with ExitStack() as stack:
            ok = Demo(options, console, stack).run()
    except (StreamerError, ServiceError, FileNotFoundError) as error:
        raise SystemExit(f"demo-sales: {error}") from error
    sys.exit(0 if ok else 1)


class Demo:
    """One run; `stack` ends what it has started."""

    def __init__(self, options: argparse.Namespace, console: Console, stack: ExitStack) -> None:
        self._options = options
        self._console = console
        self._began = time.monotonic()
        self._say("reading the invoices")
        invoices = customers.load(options.data)
        self._history = articles.load(options.data)
        self._opens = datetime.fromisoformat(options.opens).replace(tzinfo=UTC)
        at = bisect_left(invoices, self._opens, key=lambda invoice: invoice.occurred_at)
        self._past, self._to_come = invoices[:at], invoices[at:]
        self._say("Kafka and Redis start")
        kafka, server = stack.enter_context(start_kafka()), stack.enter_context(start_redis())
        self._redis: redis.Redis = server.client()
        self._places = Places(kafka.bootstrap, server.url)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-sales-")))
        os.environ["TMPDIR"] = str(folder)  # where windows keep their tables, which are those of this Kafka alone
        self._say("windows, days and the forecast start")
        since = self._opens.date() - timedelta(weeks=WEEKS, days=1)
        self._flow = Flow(self._places, since, folder, stack)
        self._outcomes = Outcomes(kafka.bootstrap)
        stack.callback(self._outcomes.stop)
        self._shop = Shop(kafka.bootstrap, self._outcomes)

    def run(self) -> bool:
        """Whether all came out as it should."""
        self._outcomes.start()
        self._say(f"{len(self._past):,} invoices of the past are written")
        self._shop.past(self._past)
        with stop_on_signals() as stopping, self._shown() as show:
            self._until(self._past_is_known, show, "the past is worked off", stopping)
            if not stopping.is_set():
                self._flow.answer_purchases()
                self._shop.live(self._to_come, self._options.speed)
                self._until(self._closes(), show, "the shop is open", stopping)
            self._shop.close()
            self._until(self._answered, show, "the last answers come", threading.Event())
        self._flow.stop()
        self._outcomes.stop()
        return self._sum_up()

    def _past_is_known(self) -> bool:
        """Whether all customers are in Redis, and the days before the shop opens have their forecasts."""
        known = sum(1 for _ in self._redis.scan_iter("streamer:windows:purchase-propensity.*", 5_000))
        customers = {invoice.customer_id for invoice in self._past} - {None}
        last = self._opens.date() - timedelta(days=1)
        return known >= len(customers) and self._outcomes.last >= last and self._answered()

    def _answered(self) -> bool:
        """Whether all that was asked is answered."""
        counts = self._outcomes.counts()
        return counts.propensities >= counts.purchases and counts.forecasts >= counts.days

    def _closes(self) -> Callable[[], bool]:
        """Whether nothing more is sold: at the end of the file, or when the time is up."""
        seconds = self._options.seconds or math.inf
        ends = time.monotonic() + seconds
        return lambda: time.monotonic() > ends or not self._shop.open()

    def _until(self, done: Callable[[], bool], show: Callable[[str], None], stage: str, stop: threading.Event) -> None:
        deadline = time.monotonic() + max(SETTLE_S, self._options.seconds or 0)
        while not done() and not stop.is_set():
            if time.monotonic() > deadline and not self._shop.open():
                raise Unreachable(f"{stage}, for more than {SETTLE_S:.0f} s; {_in_words(self._outcomes.counts())}")
            self._flow.check()
            show(stage)
            stop.wait(0.25)

    def _sum_up(self) -> bool:
        counts, repeated = self._outcomes.counts(), self._outcomes.repeated
        error = weekly_error(self._history, self._outcomes.forecasts)
        answered = counts.purchases == counts.propensities and counts.days == counts.forecasts
        rows = [
            ("invoices of the past", f"{len(self._past):,}"),
            ("purchases while the shop was open", f"{counts.purchases:,}, answered {counts.propensities:,}"),
            ("articles' days that were over", f"{counts.days:,}, forecast {counts.forecasts:,}"),
            ("answered twice, dead letters", f"{repeated}, {counts.dead}"),
            ("from invoice to answer", _milliseconds(sorted(self._outcomes.latencies))),
            ("WAPE of the weekly forecasts", "not all are there" if error is None else f"{error:.4f}"),
        ]
        write(self._options.page, self._history, self._outcomes.forecasts, rows)
        for name, said in rows:
            print(f"{name}: {said}")
        print(f"The page is {self._options.page.resolve().as_uri()}")
        return answered and not repeated and not counts.dead

    def _say(self, stage: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  {stage}", highlight=False)

    @contextmanager
    def _shown(self) -> Iterator[Callable[[str], None]]:
        """A live screen on a terminal, a line every few seconds elsewhere."""
        if not self._console.is_terminal:
            told = [0.0]

            def line(stage: str) -> None:
                if time.monotonic() > told[0] + 5:
                    told[0] = time.monotonic()
                    self._say(f"{stage}; {_in_words(self._outcomes.counts())}")

            yield line
            return
        with Live(console=self._console, auto_refresh=False) as live:
            yield lambda stage: live.update(self._screen(stage), refresh=True)

    def _screen(self, stage: str) -> Group:
        counts, table = self._outcomes.counts(), Table.grid(padding=(0, 3))
        table.add_row("", "asked", "answered")
        table.add_row("purchases", f"{counts.purchases:,}", f"{counts.propensities:,}")
        table.add_row("articles' days", f"{counts.days:,}", f"{counts.forecasts:,}")
        now = "" if self._shop.now is None else f", {self._shop.now:%A %d %B %Y, %H:%M}"
        latency = _milliseconds(sorted(self._outcomes.latencies))
        words = [Text(said, style="dim") for said in list(self._outcomes.said)]
        return Group(Text(stage + now, style="bold"), table, Text(f"from invoice to answer: {latency}"), *words)


def _in_words(counts: Counts) -> str:
    return (
        f"purchases {counts.purchases:,}, answered {counts.propensities:,}; "
        f"articles' days {counts.days:,}, forecast {counts.forecasts:,}"
    )


def _milliseconds(latencies: list[float]) -> str:
    if not latencies:
        return "nothing yet"
    p50, p99 = (latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
    return f"p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sales", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="Online Retail as CSV, plain or .gz (%(default)s)")
    parser.add_argument("--opens", default=OPENS, metavar="TIME", help="when the live part begins (%(default)s)")
    parser.add_argument("--speed", type=float, default=SPEED, help="times the shop's own pace (%(default)s)")
    parser.add_argument("--seconds", type=float, help="close the shop so long after it opened; default: at its end")
    parser.add_argument("--page", type=Path, default=Path("dist/sales.html"), help="where (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
