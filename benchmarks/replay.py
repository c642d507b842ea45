"""The real run: public CRM data through real Kafka into both workers, exactly once, and the answers joined to labels.

Starts Kafka and Redis (or takes those given), makes the topics, starts both workers as processes of their own, sends
the files with `streamer produce`, and waits until every event is answered. Ends with 1 if the counts do not match.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from benchmarks import quality, report
from benchmarks.answers import Offsets, Outputs, Tally, place_group, places, tally
from benchmarks.report import Figure
from benchmarks.servers import Cluster, WorkerProcess, cluster, connection, run, settings
from streamer import models
from streamer.settings import ModelsSettings
from streamer.telemetry.progress import progress
from streamer.worker import Worker
from tests.data import FOLDER
from tests.services import ServiceError, end_offsets, unique
from workers import datasets
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting

COMMAND = "python -m benchmarks.replay"
LEADS = FOLDER / "bank_marketing" / "bank-full.csv.gz"
TICKETS = FOLDER / "banking77" / "test.csv.gz"
PARTITIONS = 4

Rows = Mapping[int, tuple[msgspec.Raw, str]]


class Data(NamedTuple):
    """A labelled file and who answers it. `card` is the quality that must come out as in the model's manifest:
    its name here, and there."""

    worker: type[Worker[Any, Any]]
    kind: str
    file: Path
    labels: list[str]
    quality: Callable[[Rows], dict[str, float]]
    card: tuple[str, str]


class Done(NamedTuple):
    """One replayed file: the rows that were to be sent, and what came of them."""

    data: Data
    rows: int
    tally: Tally
    events_per_s: float
    quality: dict[str, float]

    @property
    def exact(self) -> bool:
        """Whether every row came in and out once."""
        return self.rows == self.tally.sent and self.tally.exact


def main() -> None:
    """Replay both files, print and keep what came out."""
    options = _options()
    try:
        data = load(options.leads, options.tickets)
        with cluster(options.bootstrap, options.redis) as servers:
            done = replay(servers, data, options.limit)
    except (ServiceError, FileNotFoundError) as error:
        raise SystemExit(f"replay: {error}") from error
    figures = [figure for one in done for figure in figures_of(one, whole=options.limit is None)]
    print(f"\n{summary(done)}\n\n{report.machine()}")
    report.write(figures, options.results / "replay.json")
    if not all(one.exact for one in done):
        sys.exit("replay: the counts do not match; see above")


def load(leads: Path, tickets: Path) -> list[Data]:
    """Read the labels of both files.

    Raises:
        FileNotFoundError: one is not there; the message says where its publisher keeps it.
    """
    converted = [row["y"] for row in datasets.read(leads, "bank_marketing", delimiter=";")]
    intents = [row["category"] for row in datasets.read(tickets, "banking77")]
    held_out, accuracy = ("ROC AUC, held-out rows", "roc_auc_held_out"), ("accuracy", "test_accuracy")
    return [
        Data(LeadScoring, "lead", leads, converted, quality.lead_quality, held_out),
        Data(TicketRouting, "ticket", tickets, intents, quality.ticket_quality, accuracy),
    ]


def replay(servers: Cluster, data: Sequence[Data], limit: int | None) -> list[Done]:
    """Send every file to its worker and wait for the answers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="streamer-replay-")))

        def streamer(*words: str) -> None:
            print("$ streamer " + " ".join(Path(word).name if "/" in word else word for word in words), flush=True)
            print(run(*words, sets=connection(servers), folder=folder), end="", flush=True)

        names = [one.worker.name for one in data]
        streamer("topics", "apply", *names, "--partitions", str(PARTITIONS))
        workers, outputs, starts = [], [], []
        for one in data:
            starts.append(end_offsets(servers.bootstrap, one.worker.source))
            group = unique(f"replay.{one.worker.name}")
            place_group(servers.bootstrap, group, one.worker.source, starts[-1])
            outputs.append(Outputs(servers.bootstrap, one.worker.source, one.worker.target))
            stack.callback(outputs[-1].close)
            print(f"$ streamer run {one.worker.name} &", flush=True)
            workers.append(WorkerProcess(one.worker.name, settings(servers, group), folder))
        with ExitStack() as running:
            for worker in workers:
                running.enter_context(worker)
            for worker in workers:
                worker.wait_until_ready()
            for one in data:
                streamer("produce", str(one.file), "--as", one.kind, *(["--limit", str(limit)] if limit else []))
            for worker, one, output, start in zip(workers, data, outputs, starts, strict=True):
                _wait(worker, output, len(places(start, end_offsets(servers.bootstrap, one.worker.source))))
        return [_done(servers, *each, limit) for each in zip(data, outputs, starts, strict=True)]


def figures_of(done: Done, whole: bool) -> list[Figure]:
    """The figures of one file; against the model's own manifest where the `whole` file was replayed."""
    name, counts = done.data.worker.name, done.tally
    figures = [
        report.exactly(f"{name}: events sent, of the rows of the file", counts.sent, done.rows, COMMAND),
        report.exactly(f"{name}: events predicted, of those sent", counts.predicted, counts.sent, COMMAND),
        *(
            report.exactly(f"{name}: {what}", count, 0, COMMAND)
            for what, count in (
                ("duplicated", counts.duplicated),
                ("lost", counts.lost),
                ("dead letters", counts.dead),
                ("out of order", counts.unordered),
                ("of unknown origin", counts.foreign),
            )
        ),
        report.shown(f"{name}: events/s while the file is being sent", round(done.events_per_s), COMMAND),
    ]
    ours, theirs = done.data.card
    manifest = models.find(ModelsSettings().dir, done.data.worker.model).manifest
    for what, value in done.quality.items():
        if what == ours and whole and manifest is not None:
            figures.append(report.at_least(f"{name}: {what}", value, manifest.metrics[theirs], 0.999, COMMAND))
        else:
            figures.append(report.shown(f"{name}: {what}", value, COMMAND))
    return figures


def summary(done: Sequence[Done]) -> str:
    """What came of both files, as a table."""
    rows = [("", *(one.data.worker.name for one in done))]
    for what in Tally._fields:
        rows.append((what, *(f"{getattr(one.tally, what):,}" for one in done)))
    rows.append(("events/s", *(f"{one.events_per_s:,.0f}" for one in done)))
    for at, one in enumerate(done):
        for what, value in one.quality.items():
            rows.append((what, *(f"{value:.4f}" if at == column else "" for column in range(len(done)))))
    return report.table(rows)


def _wait(worker: WorkerProcess, outputs: Outputs, count: int) -> None:
    with progress() as bar:
        task = bar.add_task(f"{worker.name}: answered", total=count)
        outputs.read_until(count, lambda found: bar.advance(task, found), worker.check)


def _done(servers: Cluster, data: Data, outputs: Outputs, start: Offsets, limit: int | None) -> Done:
    """Look at everything that came out, now that the workers have ended and no more can come."""
    outputs.read_to_end()
    counts = tally(places(start, end_offsets(servers.bootstrap, data.worker.source)), outputs)
    times = [answer.time_ms for answer in outputs]
    seconds = max(max(times) - min(times), 1) / 1000
    rows = min(len(data.labels), limit or len(data.labels))
    return Done(data, rows, counts, len(times) / seconds, data.quality(quality.joined(outputs, data.labels)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks.replay --limit 500",
    )
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a broker of yours (default: start one)")
    parser.add_argument("--redis", metavar="URL", help="a Redis of yours (default: start one)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows of each file")
    parser.add_argument("--leads", type=Path, default=LEADS, metavar="FILE", help="bank-full.csv of Bank Marketing")
    parser.add_argument("--tickets", type=Path, default=TICKETS, metavar="FILE", help="test.csv of Banking77")
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, metavar="DIR", help="where replay.json is written"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
