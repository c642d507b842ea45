"""Measure `streamer` against the hand-fused loop, its peers and its own goals: `make bench`, or FAST=1 make bench.

Starts Kafka and Redis (or takes those given) and runs the sections named in `--only`, or all (22 minutes). Every
contestant does the same work on the same events, in turns, and all that it writes is checked. Ends with 1 when output
was lost, repeated or wrong, or a contestant failed; a missed speed goal is only shown: it depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import KafkaException

from benchmarks import cache, latency, memory, plots, replicas, report, saturation, shipped, start
from benchmarks.plan import FAST, FULL, Bench, Findings, Section
from benchmarks.plots import Bars, Lines
from benchmarks.servers import ROOT, cluster
from tests.services import ServiceError

SECTIONS = (
    Section("tabular", "a small model at saturation, beside the hand-fused loop and the peers", saturation.tabular),
    Section("flat", "the small model on eleven flat fields, beside the same", saturation.flat),
    Section("text", "a Transformer at saturation, beside the padded loop and the model alone", saturation.text),
    Section("latency", "the small model at fixed rates", latency.measure),
    Section("cache", "the Transformer with Redis", cache.measure),
    Section("memory", "memory and speed on ever longer backlogs", memory.measure),
    Section("replicas", "one process and two", replicas.measure),
    Section("start", "time to the first prediction", start.measure),
    Section("shipped", "the shipped workers", shipped.measure),
)
LIMITS = """\
What this cannot know: one machine, one broker, a loopback network. Broker, sender, reader and contestants share its
cores, so figures compare with each other within one run and not with a cluster. The 10 % that is cut from each end of a
run hides the start. Each peer has one set of settings; nobody's crash is tested here (tests/integration does that)."""


def main() -> None:
    """Measure, print and keep the figures."""
    options = _options()
    chosen = [section for section in SECTIONS if section.name in options.only]
    results = options.results or (ROOT / ".cache" / "bench" if options.fast else report.RESULTS)
    print(report.machine(), flush=True)
    if warning := report.busy():
        report.tell(warning)
    done: list[Findings] = []
    try:
        with cluster(options.bootstrap, options.redis) as servers, TemporaryDirectory(prefix="streamer-bench-") as temp:
            bench = Bench(servers, Path(temp), FAST if options.fast else FULL)
            for section in chosen:
                report.tell(f"{section.name}: {section.about}")
                found = measure(section, bench)
                print(f"\n## {section.name}: {section.about}\n\n{found.text}\n", flush=True)
                report.write(found.figures, results / f"{section.name}.json")
                done.append(found)
    except ServiceError as error:
        raise SystemExit(f"bench: {error}") from error
    print(f"## Goals\n\n{report.goals([figure for found in done for figure in found.figures])}\n\n{LIMITS}\n")
    print("\n".join(filter(None, [report.machine(), warning])))
    _draw([chart for found in done for chart in found.charts], results)
    if faults := sum(found.faults for found in done):
        sys.exit(f"bench: {faults} outputs were lost, repeated or wrong, or a contestant failed; see above")


def measure(section: Section, bench: Bench) -> Findings:
    """Run a section; one that cannot run says why, and the others go on."""
    try:
        return section.measure(bench)
    except (ServiceError, KafkaException) as error:
        return Findings([], f"failed: {error}", [], 1)


def _draw(charts: Sequence[Bars | Lines], folder: Path) -> None:
    if not plots.available():
        report.tell(f"charts are left out, since matplotlib is not installed: {plots.INSTALL}")
        return
    for chart in charts:
        report.tell(f"drew {plots.draw(chart, folder)}")


def _names(text: str) -> list[str]:
    names = text.split(",")
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"there is no section {unknown[0]!r}; there is {', '.join(known)}")
    return names


def _options() -> argparse.Namespace:
    sections = "\n".join(f"  {section.name:10}{section.about}" for section in SECTIONS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"sections:\n{sections}\n\nexample: python -m benchmarks --fast --only tabular,latency",
    )
    parser.add_argument(
        "--fast", action="store_true", default=bool(os.environ.get("FAST")), help="a rough look in 5 minutes (FAST=1)"
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=[section.name for section in SECTIONS],
        metavar="SECTIONS",
        help="names with commas between",
    )
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a broker of yours (default: start one)")
    parser.add_argument("--redis", metavar="URL", help="a Redis of yours (default: start one)")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where figures and charts go (default: benchmarks/results; of a rough look .cache/bench)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
