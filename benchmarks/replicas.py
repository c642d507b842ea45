"""What a second process is worth, where the model is what takes the time."""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks import events, race, report
from benchmarks.backlog import Backlog, backlog
from benchmarks.contestants.lineup import Streamer
from benchmarks.plan import Bench, Findings
from benchmarks.race import Run, speed
from benchmarks.turns import Entry, take_turns
from benchmarks.workers import Text

COMMAND = "python -m benchmarks --only replicas"
RATE = 3_500
GAIN_MIN = 1.7


def measure(bench: Bench) -> Findings:
    """The text model in one process, then in two of one group."""
    contestant = Streamer("", Text, "exactly_once", RATE, {"batch.cost_max": "1000"})
    with backlog(bench.servers.bootstrap, Text.source, events.synthetic(events.text())) as source:
        entries = [
            Entry("one process", lambda: work_off(bench, source, contestant, 1)),
            Entry("two processes", lambda: work_off(bench, source, contestant, 2)),
        ]
        found = take_turns(entries, bench.sizes.repetitions_short)
    one, two = found
    gain = "replicas: events/s of two processes against one"
    figures = [
        *race.rates("replicas", found, COMMAND),
        report.at_least(gain, speed(two), speed(one), GAIN_MIN, COMMAND),
    ]
    chart = race.chart("replicas", "Text by replicas", found)
    return Findings(figures, race.summary(found, one), [chart], sum(each.faults for each in found))


def work_off(bench: Bench, source: Backlog, contestant: Streamer, replicas: int) -> Run:
    """Send a backlog when all replicas are warm and have their partitions, and wait until it is worked off.

    Raises:
        ServiceError: a replica ended, or the outputs cannot be read.
    """
    load = os.getloadavg()[0]
    share = source.reserve(RATE * replicas * bench.sizes.seconds)
    with race.stage(bench, source, contestant, share) as (job, outputs):
        with ExitStack() as running:
            children = [running.enter_context(contestant.start(job)) for _ in range(replicas)]
            for child in children:
                child.wait_until_ready()
            source.write(share)
            samples = race.watch(children, outputs, job.target, race.valid(source, share))
        return race.finished(source, share, outputs, samples, load)
