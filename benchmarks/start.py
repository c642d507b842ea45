"""How long a process takes to its first prediction, beyond what importing torch takes anyway."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median
from typing import NamedTuple

from benchmarks import events, latency, report
from benchmarks.backlog import Backlog, backlog
from benchmarks.contestants.lineup import Streamer
from benchmarks.events import PARTITIONS
from benchmarks.plan import Bench, Findings
from benchmarks.race import stage
from benchmarks.shipped_workers import Leads
from benchmarks.turns import Entry, absent, take_turns
from benchmarks.verdict import Verdict, judge

COMMAND = "python -m benchmarks --only start"
BEYOND_MAX_S = 1.5


class Start(NamedTuple):
    """Seconds from the start of a process until a reader has its first prediction, and until torch is imported in
    another right before; the machine's load before."""

    first_s: float
    torch_s: float
    load: float
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.first_s:.2f} s, {self.torch_s:.2f} s of it for torch; {self.verdict}"


def measure(bench: Bench) -> Findings:
    """lead-scoring, its model loaded from disk, with events waiting."""
    contestant = Streamer("lead-scoring", Leads, "exactly_once", 0)
    with backlog(bench.servers.bootstrap, Leads.source, events.leads()) as source:
        (found,) = take_turns(
            [Entry(contestant.name, lambda: start(bench, source, contestant))], bench.sizes.repetitions
        )
    if not found.runs:
        return Findings([], "\n".join(absent([found])), [], found.faults)
    beyond = [run.first_s - run.torch_s for run in found.runs]
    goal = report.at_most(
        "start: seconds to the first prediction beyond `import torch`", median(beyond), None, BEYOND_MAX_S, COMMAND
    )
    rows = [
        ["worker", "first prediction, s", "import torch, s", "beyond, s", "load"],
        [
            found.name,
            *(
                report.spread(values, ".2f")
                for values in ([run.first_s for run in found.runs], [run.torch_s for run in found.runs], beyond)
            ),
            report.spread([run.load for run in found.runs], ".1f"),
        ],
    ]
    return Findings([goal], report.table(rows), [], found.faults)


def start(bench: Bench, source: Backlog, contestant: Streamer) -> Start:
    """One start.

    Raises:
        ServiceError: the process ended, or there is no prediction for a long time.
    """
    load = os.getloadavg()[0]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    torch_s = time.perf_counter() - began
    share = source.send(PARTITIONS)
    with stage(bench, source, contestant, share) as (job, outputs):
        outputs.start()
        began = time.perf_counter()
        with contestant.start(job) as child:
            received_s = latency.receive(outputs, child, len(share), latency.FIRST_S)
        outputs.read_to_end()
        verdict = judge(outputs.columns, source.feed.wanted(share))
    return Start(min(received_s.values()) - began, torch_s, load, verdict)
