"""Thousands of schedules: whatever happens in whatever order, every record gets exactly one outcome, in order.

The engine is real; network and clock are the shipped fakes. One seed of hypothesis replays a failure.
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamer.engine.attempts import MemoryStore
from streamer.engine.loop import Limits
from streamer.models import Model
from streamer.records import BatchPolicy, Record
from streamer.telemetry.metrics import Metrics
from streamer.testing import Bench, FakeKafka, Fault, ManualClock, Marker, live, published
from streamer.wire import headers
from tests.echo import CachedEcho, Echo, ping

PARTITIONS = 3
SKIPPED, DEAD, ANSWERED = "skipped", "dead", "answered"


@st.composite
def events(draw):
    """One record: where it goes, what it holds, and what should come of it."""
    kind = draw(st.sampled_from([ANSWERED] * 6 + [DEAD, DEAD, SKIPPED]))
    fault = {ANSWERED: "", SKIPPED: "skip", DEAD: draw(st.sampled_from(["raise", "nan", "bytes"]))}[kind]
    return {
        "partition": draw(st.integers(0, PARTITIONS - 1)),
        "number": draw(st.integers(0, 6)),
        "length": draw(st.sampled_from([1, 4, 60])),
        "gap": draw(st.sampled_from([0, 0, 0, 3])),  # compaction and commit markers take offsets
        "fault": fault,
        "kind": kind,
    }


steps = st.lists(st.one_of(events(), events(), events(), st.sampled_from(list(Marker))), max_size=40)
benches = st.builds(
    Bench,
    faults=st.lists(st.sampled_from(list(Fault)), max_size=8).map(tuple),
    batch=st.builds(
        BatchPolicy,
        items_max=st.integers(1, 9),
        cost_max=st.sampled_from([8, 64, 1000]),
        linger_s=st.sampled_from([0.0, 0.005, 0.5]),
        goal_s=st.sampled_from([None, 0.01, 1.0]),
    ),
    limits=st.builds(
        Limits,
        poll_max=st.integers(1, 12),
        in_flight_max=st.integers(1, 30),
        dead_ratio_max=st.just(1.0),
        revoke_s=st.sampled_from([0.0, 0.01, 5.0]),
    ),
    commit_s=st.sampled_from([0.0, 0.002, 0.3, 5.0]),
    seconds=st.sampled_from([0.0, 0.001, 0.2, 3.0]).map(lambda seconds: lambda batch: seconds),
    attempts=st.builds(lambda: NoMarks()),
)


def lay_out(schedule):
    """The schedule as records, and what should come of each of them."""
    script, expected, ends = [], {}, dict.fromkeys(range(PARTITIONS), 0)
    for step in schedule:
        if isinstance(step, Marker):
            script.append(step)
            continue
        partition = step["partition"]
        offset = ends[partition] + step["gap"]
        ends[partition] = offset + 1
        value = ping(step["number"], length=step["length"], fault=step["fault"]).model_dump_json().encode()
        if step["fault"] == "bytes":
            value = b"\xff"
        script.append(Record(Echo.source, partition, offset, b"key", value, None, ManualClock().time_ms()))
        expected[(partition, offset)] = (step["kind"], 2.0 * step["number"])
    return script, expected


def check(worker, kafka, expected):
    predictions, dead = published(worker, kafka.published)
    answered = {(p.source.partition, p.source.offset): p.answer.double for p in predictions}
    rejected = {(d.source.partition, d.source.offset) for d in dead}
    assert len(predictions) == len(answered), "a prediction was published twice"
    assert len(dead) == len(rejected), "a dead letter was published twice"
    assert answered == {place: double for place, (kind, double) in expected.items() if kind == ANSWERED}
    assert rejected == {place for place, (kind, _) in expected.items() if kind == DEAD}
    order = defaultdict(list)
    for message in kafka.published:
        found = headers.last(message.headers, headers.DLQ_OFFSET)
        order[(message.topic, message.partition)].append(int(found) if found else None)
    for prediction in predictions:
        order[prediction.source.partition].append(prediction.source.offset)
    for offsets in order.values():
        seen = [offset for offset in offsets if offset is not None]
        assert seen == sorted(seen), "published out of order"
    ends = {partition: log[-1].offset + 1 for partition, log in kafka.log.items()}
    assert kafka.committed == ends, "positions are not what was read to the end"


class NoMarks(MemoryStore):
    """These deaths come from outside. Four of them with the same record on the device would condemn it, rightly."""

    def read(self) -> bytes:
        return b""


@settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedule=steps, bench=benches, cached=st.booleans())
def test_every_record_gets_exactly_one_outcome_in_order(schedule, bench, cached):
    script, expected = lay_out(schedule)
    worker = CachedEcho() if cached else Echo()
    kafka = FakeKafka(script)
    live(worker, kafka, bench, Model.none(worker.name), Metrics(worker.name, "0", CollectorRegistry()))
    check(worker, kafka, expected)
