import pytest
from prometheus_client import CollectorRegistry

from streamer.clock import Deadline
from streamer.engine.checkpoint import LOOK_S, REFUSALS_MAX, Checkpoint, CheckpointParts, CommitPolicy
from streamer.errors import Aborted, Reason, Refused, Temporary, Unclear, Unreachable, Wait
from streamer.records import Rejected
from streamer.telemetry.metrics import Metrics
from streamer.testing import FakeCommitter, FakeKafka, FakeSource, ManualClock
from streamer.wire.codec import Identity, JsonCodec
from tests.echo import Echo
from tests.slices import row


class Sink:
    """Takes `seconds` for a commit and ends it as planned."""

    def __init__(self, clock, kafka):
        self.clock, self.kafka = clock, kafka
        self.plan, self.seconds, self.written, self.handed, self.recovered = [], 0.0, [], [], 0

    def write(self, messages):
        self.written += messages

    def begin(self, positions, deadline):
        def commit():
            self.clock.sleep(self.seconds)
            if self.plan and (error := self.plan.pop(0)):
                raise error
            self.kafka.committed |= positions

        return commit

    def confirm(self):
        self.written = []

    def hand_over(self, deadline):
        if self.plan and (error := self.plan.pop(0)):
            raise error
        self.handed = list(self.written)

    def recover(self, deadline):
        self.recovered += 1

    def forget(self, partitions):
        self.written = [message for message in self.written if message.partition not in partitions]


class Setup:
    def __init__(self, policy=None, commit_s=0.0):
        self.clock = ManualClock()
        self.kafka = FakeKafka([])
        self.sink = Sink(self.clock, self.kafka)
        self.durable = []
        metrics = Metrics("echo", "0", CollectorRegistry())
        codec = JsonCodec(Echo(), Identity("echo", "0", "", "g"), self.clock, 10_000)
        self.checkpoint = Checkpoint(
            CheckpointParts(
                FakeSource(self.kafka, self.clock),
                self.sink,
                FakeCommitter(self.clock, seconds=commit_s),
                codec,
                self.clock,
                metrics,
            ),
            policy or CommitPolicy(interval_s=0.1, gap_s=0.005, rests=2.0),
            lambda durable, seconds: self.durable.extend(durable),
        )

    def add(self, offset, partition=0):
        rows = row(offset, partition).alone()
        rows.settle([Rejected(Reason.INVALID, "m", "E")])
        self.checkpoint.add([rows])
        return rows

    def begin(self):
        return self.checkpoint.begin(Deadline(self.clock, 10))

    def commit(self):
        return self.checkpoint.commit(Deadline(self.clock, 10))

    def due_in(self, backlog_items=100):
        return self.checkpoint.due_in(self.clock.now(), backlog_items)

    def commits_in(self, backlog_items=100):
        return self.checkpoint._due_at(backlog_items) - self.clock.now()

    def advance(self):
        return self.checkpoint.advance(backlog_items=100, timeout_s=10)


def test_with_nothing_to_commit_nothing_is_due():
    setup = Setup()
    assert setup.due_in() is None
    assert setup.commit() == {}


def test_the_first_outcome_is_committed_at_once():
    setup = Setup()
    item = setup.add(0)
    assert setup.due_in() <= 0
    setup.commit()
    assert setup.durable == [item]
    assert setup.kafka.committed == {0: 1}


def test_the_next_commit_waits_twice_what_the_last_took():
    setup = Setup()
    setup.sink.seconds = 0.020
    setup.add(0)
    setup.commit()
    setup.add(1)
    assert setup.commits_in() == pytest.approx(0.040)


def test_and_no_less_than_the_gap():
    setup = Setup()
    setup.add(0)
    setup.commit()
    setup.add(1)
    assert setup.commits_in() == pytest.approx(0.005)


def test_but_no_longer_than_the_interval_after_a_slow_one():
    setup = Setup()
    setup.sink.seconds = 3.0
    setup.add(0)
    setup.commit()
    setup.add(1)
    assert setup.commits_in() == pytest.approx(0.1)


def test_under_backlog_outcomes_gather_for_the_interval():
    setup = Setup()
    setup.add(0)
    setup.commit()
    setup.add(1)
    assert setup.commits_in(backlog_items=1) == pytest.approx(0.1)


def test_an_aborted_commit_is_written_again_after_growing_pauses():
    setup = Setup()
    setup.sink.plan = [Aborted("a"), Aborted("b"), Wait("c")]
    item = setup.add(0)
    pauses = []
    while setup.due_in() is not None:
        setup.clock.sleep(max(0.0, setup.due_in()))
        setup.commit()
        pauses.append(setup.due_in())
    assert pauses == [pytest.approx(0.05), pytest.approx(0.1), pytest.approx(0.2), None]
    assert setup.durable == [item]


def test_an_unclear_commit_takes_nothing_until_it_is_decided():
    setup = Setup()
    setup.sink.plan = [Unclear("?")]
    setup.add(0)
    setup.commit()
    assert not setup.checkpoint.clear
    setup.commit()
    assert setup.checkpoint.clear
    assert setup.sink.recovered == 1


def test_an_unclear_commit_that_happened_is_not_written_again():
    setup = Setup()
    setup.sink.plan = [Unclear("?")]
    item = setup.add(0)
    setup.commit()
    setup.kafka.committed = {0: 1}
    setup.sink.plan = [AssertionError("written again")]
    setup.commit()
    assert setup.durable == [item]
    assert setup.sink.written == []


def test_an_unclear_commit_that_did_not_happen_is_written_again():
    setup = Setup()
    setup.sink.plan = [Unclear("?")]
    item = setup.add(0)
    setup.commit()
    assert setup.durable == []
    setup.commit()
    assert setup.durable == [item]
    assert setup.kafka.committed == {0: 1}


def test_what_somebody_else_has_moved_is_handed_back_and_not_published():
    setup = Setup()
    setup.sink.plan = [Unclear("?")]
    setup.add(0, partition=0)
    kept = setup.add(0, partition=1)
    setup.commit()
    setup.kafka.committed = {0: 500}
    assert setup.commit() == {0: 500}
    assert setup.durable == [kept]
    assert setup.kafka.committed == {0: 500, 1: 1}


def test_an_unclear_commit_whose_partitions_are_gone_is_still_decided():
    setup = Setup()
    setup.sink.plan = [Unclear("?")]
    setup.add(0)
    setup.commit()
    setup.checkpoint.forget([0])
    assert setup.due_in() is not None
    setup.commit()
    assert setup.checkpoint.clear


def test_the_same_refusal_again_and_again_ends_the_process_and_says_why():
    setup = Setup()
    setup.sink.plan = [Refused("grant Write")] * REFUSALS_MAX
    setup.add(0)
    for _ in range(REFUSALS_MAX - 1):
        setup.commit()
    with pytest.raises(Unreachable, match="grant Write"):
        setup.commit()


def test_time_cures_what_is_no_refusal():
    setup = Setup()
    setup.sink.plan = [Aborted("stale generation")] * 50
    item = setup.add(0)
    for _ in range(51):
        setup.commit()
    assert setup.durable == [item]


def test_a_commit_that_is_out_holds_up_nothing():
    setup = Setup(commit_s=0.02)
    first = setup.add(0)
    setup.begin()
    assert setup.due_in() == LOOK_S
    second = setup.add(1)
    setup.checkpoint.look()
    assert setup.durable == []
    setup.clock.sleep(0.02)
    setup.checkpoint.look()
    assert setup.durable == [first]
    assert setup.kafka.committed == {0: 1}
    assert len(setup.checkpoint) == 1
    assert setup.commits_in() == pytest.approx(0.04)
    setup.commit()
    assert setup.durable == [first, second]


def test_after_an_abort_what_came_meanwhile_is_committed_behind_it():
    setup = Setup(commit_s=0.02)
    setup.sink.plan = [Aborted("a")]
    first = setup.add(0)
    setup.begin()
    second = setup.add(1)
    setup.clock.sleep(0.02)
    setup.checkpoint.look()
    assert len(setup.checkpoint) == 2
    setup.commit()
    assert setup.durable == [first, second]
    assert setup.kafka.committed == {0: 2}


def test_an_unclear_commit_says_nothing_of_what_came_meanwhile():
    setup = Setup(commit_s=0.02)
    setup.sink.plan = [Unclear("?")]
    first = setup.add(0)
    setup.begin()
    second = setup.add(1)
    setup.clock.sleep(0.02)
    setup.checkpoint.look()
    setup.kafka.committed = {0: 1}  # it had happened
    setup.begin()
    assert setup.durable == [first]
    setup.checkpoint.wait()
    assert setup.durable == [first, second]
    assert setup.kafka.committed == {0: 2}


def test_partitions_are_given_up_only_when_the_commit_that_is_out_has_ended():
    setup = Setup(commit_s=5.0)
    first = setup.add(0)
    setup.begin()
    setup.add(1)
    setup.checkpoint.forget([0])
    assert setup.durable == [first]
    assert setup.kafka.committed == {0: 1}
    assert len(setup.checkpoint) == 0
    assert setup.checkpoint.bytes == 0


def test_a_commit_that_ends_the_process_is_told_and_nothing_of_it_stays():
    setup = Setup(commit_s=0.02)
    setup.sink.plan = [Temporary("fenced")]
    setup.add(0)
    setup.begin()
    with pytest.raises(Temporary):
        setup.checkpoint.forget([0])
    assert len(setup.checkpoint) == 0


def test_what_is_ready_is_handed_over_soon_after_a_commit_and_committed_when_that_is_due():
    setup = Setup()
    setup.sink.seconds = 0.020
    setup.add(0)
    setup.advance()
    setup.advance()
    assert setup.kafka.committed == {0: 1}
    setup.add(1)
    assert setup.due_in() == pytest.approx(0.020)  # the commit itself is due after twice its time
    setup.advance()
    assert setup.sink.handed == []
    setup.clock.sleep(0.020)
    setup.advance()
    assert len(setup.sink.handed) == 1
    assert setup.kafka.committed == {0: 1}
    assert setup.due_in() == pytest.approx(0.020)
    setup.clock.sleep(0.020)
    setup.advance()
    setup.checkpoint.wait()
    assert setup.kafka.committed == {0: 2}


@pytest.mark.parametrize("error", [Aborted("a"), Wait("b"), Unclear("c")])
def test_a_hand_over_that_fails_is_made_good_by_the_commit(error):
    setup = Setup()
    first = setup.add(0)
    setup.commit()
    second = setup.add(1)
    setup.clock.sleep(0.003)
    setup.sink.plan = [error]
    setup.advance()
    assert setup.durable == [first]
    setup.clock.sleep(setup.due_in())
    setup.advance()
    setup.checkpoint.wait()
    assert setup.durable == [first, second]
    assert setup.sink.recovered == isinstance(error, Unclear)


def test_an_unclear_hand_over_is_not_taken_for_the_commit_before_it():
    setup = Setup()
    setup.sink.plan = [Aborted("a"), Unclear("b")]
    setup.add(0, partition=0)
    setup.commit()
    setup.add(0, partition=1)
    setup.clock.sleep(0.05)
    setup.checkpoint._not_before, setup.checkpoint._lead_s = setup.clock.now() + 1, 2.0  # only the hand-over is due
    setup.advance()
    assert not setup.checkpoint.clear
    setup.kafka.committed = {0: 1}  # somebody else, up to exactly our position
    assert setup.checkpoint.begin(Deadline(setup.clock, 10)) == {0: 1}
    setup.checkpoint.wait()
    assert [rows.columns.partition for rows in setup.durable] == [1]
    assert setup.kafka.committed == {0: 1, 1: 1}


def test_no_commit_begins_after_its_time():
    setup = Setup(commit_s=3.0)
    setup.add(0)
    setup.begin()
    setup.add(1)
    setup.checkpoint.commit(Deadline(setup.clock, 1))
    assert setup.kafka.committed == {0: 1}
