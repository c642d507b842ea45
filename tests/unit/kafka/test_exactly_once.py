"""The decisions of the transactional sink, on a producer that fails as told. The real one is in tests/contracts."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamer.clock import Deadline
from streamer.engine.committer import ThreadCommitter
from streamer.errors import Aborted, Temporary, Unclear, Wait
from streamer.kafka.exactly_once import TransactionalSink
from streamer.kafka.rivals import FENCES
from streamer.testing import FakeKafka, FakeSource, ManualClock
from tests.slices import run


def error(code: int, **flags: bool) -> KafkaException:
    return KafkaException(KafkaError(code, "said", **flags))


def durable(sink: Any, clock: Any = None) -> None:
    """Commit all that was written, on this thread."""
    sink.begin({0: 1}, Deadline(clock or ManualClock(), 10))()
    sink.confirm()


class FailingProducer:
    """Raises what is planned for a call, once each; remembers every call."""

    made: list[FailingProducer]

    def __init__(self, config: dict[str, Any], plan: dict[str, Any]) -> None:
        self.config = config
        self.plan = plan
        self.calls: list[str] = []
        self.sent: list[tuple[str, int, bytes]] = []
        self.abort_timeout_s = 0.0
        self.lost = 0  # connections
        self.silent = False
        self.leader = 1
        self.unacknowledged = 0
        self.clock = ManualClock()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        planned = self.plan.pop(name, None)
        if isinstance(planned, BaseException):
            raise planned
        if planned is not None:
            planned(self)

    def init_transactions(self, timeout: float) -> None:
        self._call("init")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, *_: Any, **__: Any) -> None:
        self._call("produce")
        self.sent.append((topic, partition, value))

    def send_offsets_to_transaction(self, offsets: Any, group: Any, timeout: float) -> None:
        self._call("offsets")

    def commit_transaction(self, timeout: float) -> None:
        self._call("commit")

    def abort_transaction(self, timeout: float) -> None:
        self.abort_timeout_s = timeout
        self._call("abort")

    def list_topics(self, topic: str, timeout: float) -> Any:
        self._call("list_topics")
        partitions = {"three": range(3)}.get(topic, range(6))
        problem = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if topic == "gone" else None
        known = dict.fromkeys(partitions, SimpleNamespace(leader=self.leader))
        return SimpleNamespace(topics={topic: SimpleNamespace(error=problem, partitions=known)})

    def poll(self, timeout: float) -> int:
        self._call("poll")
        self.clock.sleep(timeout)
        if not self.silent and "stats_cb" in self.config:
            brokers = {"TxnCoordinator": {"disconnects": self.lost, "req_timeouts": 0}, "b/1": {"tx": 1}}
            self.config["stats_cb"](json.dumps({"ts": round(self.clock.now() * 1e6), "brokers": brokers}))
        return 0

    def purge(self) -> None:
        self._call("purge")

    def flush(self, timeout: float) -> int:
        self._call("flush")
        return self.unacknowledged


class Setup:
    def __init__(self, **plan: Any) -> None:
        self.plan = plan
        self.clock = ManualClock()
        self.producers: list[FailingProducer] = []
        self.source = FakeSource(FakeKafka([]), self.clock)
        self.asked: list[str] = []
        self.sink = TransactionalSink({}, "id", self.source, "source", self.clock, self.make, self.forbidden)

    def forbidden(self, config: Any, topics: Any, timeout_s: float) -> str:
        self.asked += topics
        return "needs WRITE on topic target"

    def make(self, config: dict[str, Any]) -> FailingProducer:
        self.producers.append(FailingProducer(config, self.plan))
        self.producers[-1].clock = self.clock
        return self.producers[-1]

    def write(self, *partitions: int, topic: str = "target") -> None:
        self.sink.write([run(topic, p, b"k", b"v%d" % p) for p in partitions or (0,)])

    def commit(self) -> None:
        durable(self.sink, self.clock)


def test_a_commit_is_one_transaction() -> None:
    setup = Setup()
    setup.write(0, 1)
    setup.commit()
    assert setup.producers[0].calls == [
        "init", "list_topics", "begin", "produce", "produce", "offsets", "flush", "commit", "poll",
    ]  # fmt: skip


def test_equal_partition_counts_keep_the_partition_and_others_fold_it() -> None:
    setup = Setup()
    setup.write(4, topic="target")
    setup.write(4, topic="three")
    setup.commit()
    assert [(topic, partition) for topic, partition, _ in setup.producers[0].sent] == [("target", 4), ("three", 1)]


def hand_over(setup: Setup) -> None:
    setup.sink.hand_over(Deadline(setup.clock, 10))


def test_what_is_handed_over_is_in_the_transaction_that_the_commit_ends() -> None:
    setup = Setup()
    setup.write(0)
    hand_over(setup)
    setup.write(1)
    hand_over(setup)
    setup.write(2)
    setup.commit()
    assert setup.producers[0].calls == [
        "init", "list_topics", "begin", "produce", "produce", "produce", "offsets", "flush", "commit", "poll",
    ]  # fmt: skip
    assert [partition for _, partition, _ in setup.producers[0].sent] == [0, 1, 2]


def test_handing_over_nothing_opens_nothing() -> None:
    setup = Setup()
    hand_over(setup)
    assert setup.producers == []


@pytest.mark.parametrize("call", ["begin", "produce"])
def test_a_hand_over_that_is_rolled_back_is_written_again_whole(call: str) -> None:
    setup = Setup()
    setup.write(0)
    if call == "produce":
        hand_over(setup)
        setup.write(1)
    setup.plan[call] = error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)
    with pytest.raises(Aborted):
        hand_over(setup)
    before = len(setup.producers[0].sent)
    setup.commit()
    assert [partition for _, partition, _ in setup.producers[0].sent[before:]] == [0, 1][: 1 + (call == "produce")]
    assert setup.producers[0].calls.count("abort") == 1


def test_what_is_given_up_leaves_the_open_transaction_and_the_rest_is_written_again() -> None:
    setup = Setup()
    setup.write(0, 1)
    hand_over(setup)
    setup.sink.forget([0])
    assert setup.producers[0].calls[-2:] == ["abort", "poll"]
    setup.commit()
    assert [partition for _, partition, _ in setup.producers[0].sent] == [0, 1, 1]


def test_what_was_not_in_it_leaves_it_open() -> None:
    setup = Setup()
    setup.write(0)
    hand_over(setup)
    setup.write(1)
    setup.sink.forget([1])
    assert "abort" not in setup.producers[0].calls


def test_a_transaction_that_cannot_be_rolled_back_costs_a_new_producer() -> None:
    setup = Setup(abort=error(KafkaError._TIMED_OUT))
    setup.write(0, 1)
    hand_over(setup)
    setup.sink.forget([0])
    setup.commit()
    assert [partition for _, partition, _ in setup.producers[1].sent] == [1]


def test_what_is_open_at_the_end_is_rolled_back() -> None:
    setup = Setup()
    setup.write(0)
    hand_over(setup)
    setup.sink.close(Deadline(setup.clock, 5))
    assert "abort" in setup.producers[0].calls


@pytest.mark.parametrize("call", ["begin", "produce", "offsets", "commit"])
def test_what_needs_an_abort_is_rolled_back_and_written_again(call: str) -> None:
    setup = Setup(**{call: error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)})
    setup.write()
    with pytest.raises(Aborted):
        setup.commit()
    assert setup.producers[0].calls[-2:] == ["abort", "poll"]
    setup.commit()
    assert len(setup.producers) == 1
    assert setup.producers[0].sent[-1] == ("target", 0, b"v0")


@pytest.mark.parametrize("call", ["begin", "produce", "offsets", "commit"])
@pytest.mark.parametrize("code", [KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._STATE])
def test_anything_indefinite_is_unclear(call: str, code: int) -> None:
    setup = Setup(**{call: error(code, retriable=True)})
    setup.write()
    with pytest.raises(Unclear):
        setup.commit()


def test_an_abort_that_fails_is_unclear() -> None:
    setup = Setup(
        offsets=error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True), abort=error(KafkaError._TIMED_OUT)
    )
    setup.write()
    with pytest.raises(Unclear):
        setup.commit()


def test_a_client_that_never_returns_is_left_behind() -> None:
    hung = threading.Event()
    setup = Setup(offsets=lambda producer: hung.wait(60))
    setup.write()
    committer = ThreadCommitter(setup.clock)
    committer.start(setup.sink.begin({0: 1}, Deadline(setup.clock, 0.01)), Deadline(setup.clock, 0.01))
    assert not committer.ended(0.01)
    setup.clock.sleep(1)
    with pytest.raises(Unclear, match="does not return"):
        committer.ended(0)
    setup.sink.recover(Deadline(setup.clock, 5))
    setup.commit()
    hung.set()
    assert setup.producers[1].sent == [("target", 0, b"v0")]
    assert "abort" not in setup.producers[0].calls


def test_an_abort_keeps_to_the_deadline_of_the_commit() -> None:
    setup = Setup(offsets=error(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True))
    setup.write()
    with pytest.raises(Aborted):
        setup.commit()
    assert setup.producers[0].abort_timeout_s == 10


def test_recover_makes_a_new_producer_of_the_same_id_and_keeps_what_was_written() -> None:
    setup = Setup(commit=error(KafkaError._TIMED_OUT))
    setup.write()
    with pytest.raises(Unclear):
        setup.commit()
    setup.sink.recover(Deadline(setup.clock, 5))
    setup.commit()
    old, new = setup.producers
    assert old.calls[-1] == "purge"
    assert new.sent == [("target", 0, b"v0")]
    assert {old.config["transactional.id"], new.config["transactional.id"]} == {"id"}


def test_a_line_that_was_disturbed_under_a_commit_costs_a_new_producer_before_the_next() -> None:
    def disturb(producer: FailingProducer) -> None:
        producer.config["error_cb"](KafkaError(KafkaError._TRANSPORT, "gone"))

    setup = Setup(poll=disturb)
    setup.write()
    setup.commit()
    assert len(setup.producers) == 1
    setup.commit()
    assert len(setup.producers) == 2


def test_an_error_without_words_costs_a_new_producer() -> None:
    """Seen where a rival fenced this one in the middle of sending: the client called back with nothing."""
    setup = Setup(poll=lambda producer: producer.config["error_cb"](None))
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == 2


def test_other_errors_of_the_line_cost_nothing() -> None:
    def grumble(producer: FailingProducer) -> None:
        producer.config["error_cb"](KafkaError(KafkaError._RESOLVE, "dns"))

    setup = Setup(poll=grumble)
    setup.write()
    setup.commit()
    setup.commit()
    assert len(setup.producers) == 1


@pytest.mark.parametrize(
    ("apart_s", "kind", "said"), [(9.0, Temporary, r"kafka\.slot"), (11.0, Unclear, "transaction")]
)
def test_fenced_again_and_again_it_is_a_rival_of_the_same_id_and_the_cure_is_named(
    apart_s: float, kind: type, said: str
) -> None:
    setup = Setup()
    setup.write()
    for _ in range(FENCES - 1):
        setup.plan["commit"] = error(KafkaError._FENCED, fatal=True)
        with pytest.raises(Unclear):
            setup.commit()
        setup.sink.recover(Deadline(setup.clock, 5))
        setup.clock.sleep(apart_s)
    setup.plan["commit"] = error(KafkaError._FENCED, fatal=True)
    with pytest.raises(kind, match=said):
        setup.commit()


def test_a_client_that_stumbles_over_its_own_log_is_only_unclear() -> None:
    """Seen where a rival fenced this one in the middle of sending."""
    setup = Setup(flush=AttributeError("'Logger' object has no attribute 'log'"))
    setup.write()
    with pytest.raises(Unclear, match="stumbled"):
        setup.commit()


def test_fenced_after_our_own_timeout_is_only_unclear() -> None:
    setup = Setup()

    def stopped(producer: FailingProducer) -> None:
        setup.clock.sleep(60)  # as after SIGSTOP: the broker has timed our transaction out
        raise error(KafkaError._FENCED, fatal=True)

    setup.plan["commit"] = stopped
    setup.write()
    with pytest.raises(Unclear):
        setup.commit()


def test_without_membership_nothing_is_begun() -> None:
    setup = Setup()
    setup.write()
    setup.source.close()
    with pytest.raises(Wait):
        setup.commit()
    assert setup.producers == []


def test_a_full_queue_is_waited_for() -> None:
    setup = Setup(produce=BufferError())
    setup.write()
    setup.commit()
    assert setup.producers[0].sent == [("target", 0, b"v0")]


def test_an_open_transaction_is_rolled_back_while_there_is_no_membership() -> None:
    setup = Setup()
    setup.write()
    hand_over(setup)
    setup.source.close()
    with pytest.raises(Wait):
        setup.commit()
    assert setup.producers[0].calls[-2:] == ["abort", "poll"]
