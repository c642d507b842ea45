"""What a fault may not do: block a partition for ever, be committed past, quote an event, or fill the memory."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from confluent_kafka import KafkaError
from prometheus_client import CollectorRegistry
from pydantic import model_validator

from streamer.clock import Deadline
from streamer.device.runner import Inference, ThreadRunner
from streamer.engine.loop import Engine, Limits
from streamer.errors import Aborted, BadConfig, BadData, DeviceFailed, Refused, Temporary, Wait
from streamer.kafka.at_least_once import AtLeastOnceSink
from streamer.kafka.source import KafkaSource
from streamer.models import Model
from streamer.records import BatchPolicy
from streamer.slices import Batch
from streamer.telemetry.metrics import Metrics
from streamer.testing import Bench, FakeKafka, FakeSource, ManualClock, serve
from streamer.testing.serving import build, records
from tests.echo import CachedEcho, Echo, Ping, ping
from tests.slices import messages, run
from tests.unit.kafka.test_at_least_once import at_least_once
from tests.unit.kafka.test_exactly_once import Setup, durable
from tests.unit.kafka.test_exactly_once import error as said
from tests.unit.wire.test_codec import codec, decoded


class Failing(CachedEcho):
    """Each of its methods that the owner thread calls fails on the event that names it."""

    def _fail(self, event: Ping, here: str) -> None:
        if event.fault == here:
            raise RuntimeError("a secret of the event")

    def accepts(self, event: Ping) -> bool:
        self._fail(event, "accepts")
        return True

    def cost(self, event: Ping) -> int:
        self._fail(event, "cost")
        return 1

    def feature_key(self, event: Ping) -> str | None:
        self._fail(event, "feature_key")
        return None

    def cache_key(self, event: Ping, features: Any) -> Any:
        self._fail(event, "cache_key")
        return (event.number, event.fault)


@pytest.mark.parametrize("where", ["accepts", "cost", "feature_key", "cache_key"])
def test_an_event_that_a_method_of_the_worker_fails_on_is_a_dead_letter(where: str) -> None:
    answers = serve(Failing(), [ping(0), ping(1, fault=where), ping(1, fault=where), ping(2)])
    assert [p.source.offset for p in answers.predictions] == [0, 3]
    assert [(d.source.offset, d.reason, d.error) for d in answers.dead_letters] == [
        (1, "model-error", "RuntimeError"),
        (2, "model-error", "RuntimeError"),
    ]
    assert "secret" not in answers.dead_letters[0].message


def test_a_number_too_large_for_a_cache_key_is_a_dead_letter() -> None:
    answers = serve(CachedEcho(), [ping(0), ping(2**80), ping(2)])
    assert [p.source.offset for p in answers.predictions] == [0, 2]


class Strict(Ping):
    scores: dict[str, int] = {}

    @model_validator(mode="after")
    def _check(self) -> Strict:
        if self.fault == "value":
            raise ValueError(f"no good: {self.name}")
        if self.fault == "key":
            raise KeyError(self.name)
        return self


class StrictEcho(Echo):
    event: ClassVar[type[Ping]] = Strict


@pytest.mark.parametrize("fault", ["value", "key"])
def test_a_validator_that_fails_costs_one_record_and_its_text_is_not_published(fault: str) -> None:
    answers = serve(StrictEcho(), [ping(0), ping(1, name="private", fault=fault), ping(2)])
    assert [p.source.offset for p in answers.predictions] == [0, 2]
    (dead,) = answers.dead_letters
    assert dead.reason == "invalid"
    assert "private" not in dead.message


def test_the_keys_of_a_mapping_are_not_published() -> None:
    broken = ping(1).model_dump_json().encode()[:-1] + b',"scores":{"private@example.com":"x"}}'
    (dead,) = serve(StrictEcho(), [broken]).dead_letters
    assert dead.message.startswith("scores.*: ")


def test_a_prediction_that_no_record_can_hold_for_its_key_is_a_dead_letter() -> None:
    one = decoded(key=b"\xff" * 3_000)
    one.settle(b'{"double": 2.0}')
    (message,) = messages(codec(bytes_max=10_000).encode(one.alone()))
    assert message.topic.startswith("dlq.")
    assert message.key == one.columns.keys[0]
    assert dict(message.headers)["streamer-reason"] == b"answer-too-large"


class Read:
    """A message of the client."""

    def __init__(
        self, partition: int, offset: int, code: int | None = None, names: Any = None, topic: str | None = "source"
    ) -> None:
        self._partition, self._offset, self._code, self._names = partition, offset, code, names
        self._topic = topic

    def topic(self) -> str | None:
        return self._topic

    def error(self) -> KafkaError | None:
        return None if self._code is None else KafkaError(self._code)

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int | None:
        return self._offset

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def timestamp(self) -> tuple[int, int]:
        return 0, -1

    def headers(self) -> Any:
        if isinstance(self._names, Exception):
            raise self._names
        return self._names


@pytest.fixture
def source() -> KafkaSource:
    made = KafkaSource({"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}, "source", "earliest")
    made._positions = {0: 0}
    return made


def test_a_record_whose_header_names_are_no_text_is_read_without_them(source: KafkaSource) -> None:
    broken = SystemError("returned a result with an exception set")  # what confluent-kafka 2.16 raises
    (columns,) = source._take([Read(0, 0, names=broken), Read(0, 1, names=[("n", b"v")])])
    assert (columns.values, columns.headers) == ([b"v", b"v"], [None, [("n", b"v")]])


def test_what_is_said_of_a_partition_that_was_given_up_is_not_heard(source: KafkaSource) -> None:
    gone = [Read(7, 5, KafkaError._PARTITION_EOF), Read(7, 5, KafkaError._AUTO_OFFSET_RESET)]
    assert source._take(gone) == []
    assert source._ends == {}


def test_what_is_said_of_the_group_is_heard_whatever_its_partition(source: KafkaSource) -> None:
    with pytest.raises(BadConfig, match=r"session\.timeout\.ms"):
        source._take([Read(7, 5, KafkaError.INVALID_SESSION_TIMEOUT, topic=None)])


def engine_of(worker: Echo, kafka: FakeKafka, bench: Bench) -> Engine:
    clock = ManualClock()
    metrics = Metrics(worker.name, "0", CollectorRegistry())
    model = Model.none(worker.name)
    return build(worker, kafka, bench, clock=clock, faults=iter(()), metrics=metrics, model=model)


@pytest.mark.parametrize("error", [BadData, RuntimeError])
def test_after_a_failure_while_draining_no_callback_commits_past_it(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Echo()
    kafka = FakeKafka(records([ping(n) for n in range(8)], worker.source))
    engine = engine_of(worker, kafka, Bench(batch=BatchPolicy(items_max=4), seconds=lambda batch: 1.0))

    def observe(items: Any) -> None:
        if not items:
            return
        monkeypatch.undo()
        raise error("released, and published by nobody")

    worker.accepts = lambda event: engine.stop() or True  # type: ignore[method-assign, func-returns-value]
    monkeypatch.setattr(engine, "_release", lambda: None)  # nothing is released before the drain
    step = engine.step

    def once() -> None:
        step()
        monkeypatch.undo()
        monkeypatch.setattr(engine._dead_letters, "observe", observe)

    monkeypatch.setattr(engine, "step", once)
    with pytest.raises(error):
        engine.run()
    engine.revoked([0])  # as the client calls it when it is thrown away
    assert kafka.committed == {}
    assert kafka.published == []


def test_a_rebalance_elsewhere_does_not_hold_up_a_drain() -> None:
    worker = Echo()
    kafka = FakeKafka(records([ping(n) for n in range(4)], worker.source))
    engine = engine_of(worker, kafka, Bench())
    parts = engine._parts
    poll, begin, served = parts.source.poll, parts.sink.begin, []

    def watched_poll(records_max: int, timeout_s: float) -> Any:
        served.append(records_max == 0)
        return poll(records_max, timeout_s)

    def refusing_begin(positions: Any, deadline: Deadline) -> Any:
        if not any(served):  # the generation is that of the last poll
            raise Aborted("Specified group generation id is not valid")
        return begin(positions, deadline)

    parts.source.poll, parts.sink.begin = watched_poll, refusing_begin  # type: ignore[method-assign]
    engine.start()
    while kafka.unread():
        engine.step()
    before = parts.clock.now()
    engine.drain(Deadline(parts.clock, 25.0))
    assert kafka.committed == {0: 4}
    assert parts.clock.now() - before < 2.0


def test_bytes_that_wait_for_a_commit_are_bounded_too() -> None:
    worker = Echo()
    script = [ping(n, name="n" * 1_000) for n in range(50)]
    kafka = FakeKafka(records(script, worker.source))
    engine = engine_of(worker, kafka, Bench(limits=Limits(in_flight_bytes_max=5_000, poll_max=1)))

    def refusing_begin(positions: Any, deadline: Deadline) -> None:
        raise Aborted("no coordinator")

    engine._parts.sink.begin = refusing_begin  # type: ignore[method-assign]
    engine.start()
    for _ in range(100):
        engine.step()
    assert 0 < engine._checkpoint.bytes < 10_000
    engine._forget([0])
    assert engine._checkpoint.bytes == 0


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._UNKNOWN_PARTITION])
def test_what_the_client_itself_refuses_is_a_refusal_and_not_unclear(code: int) -> None:
    setup = Setup(produce=said(code))
    setup.write()
    with pytest.raises(Refused):
        setup.commit()
    assert "abort" in setup.producers[0].calls


def test_a_line_that_was_disturbed_under_an_abort_gets_a_new_producer() -> None:
    setup = Setup(produce=said(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True))
    setup.write()
    setup.plan["poll"] = lambda producer: producer.config["error_cb"](KafkaError(KafkaError._TRANSPORT))
    with pytest.raises(Aborted):
        setup.commit()
    setup.commit()
    assert len(setup.producers) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (said(KafkaError._FATAL, fatal=True), Temporary),
        (said(KafkaError.MSG_SIZE_TOO_LARGE), Refused),
        (said(KafkaError._STATE), Wait),
    ],
)
def test_at_least_once_says_what_the_client_refuses(error: Exception, kind: type[Exception]) -> None:
    sink, _, kafka = at_least_once({})
    sink._unsent = [run("target", 0, b"k", b"v")]
    sink._producer.plan["produce"] = error
    with pytest.raises(kind) as caught:
        durable(sink)
    assert type(caught.value) is kind
    assert kafka.committed == {}


def test_at_least_once_names_a_missing_topic() -> None:
    sink, _, _ = at_least_once({})
    sink.write([run("gone", 0, b"k", b"v")])
    with pytest.raises(Refused, match="streamer topics apply"):
        durable(sink)


def test_a_setting_that_the_client_does_not_take_is_named() -> None:
    broken = {"bootstrap.servers": "127.0.0.1:1", "socket.timeout.ms": "abc"}
    clock = ManualClock()
    with pytest.raises(BadConfig, match=r"socket\.timeout\.ms"):
        KafkaSource({**broken, "group.id": "g"}, "source", "earliest")
    with pytest.raises(BadConfig, match=r"socket\.timeout\.ms"):
        AtLeastOnceSink(broken, FakeSource(FakeKafka([]), clock), clock)


def test_a_model_that_never_comes_back_ends_the_process_and_says_where_it_hangs(
    capfd: pytest.CaptureFixture[str],
) -> None:
    runner = ThreadRunner(Inference(Echo(), torch.device("cpu"), 1_000), stuck_s=0.0)  # its thread is not started
    runner.submit(Batch([], "full", 1, 0.0))
    with pytest.raises(DeviceFailed, match="has not come back"):
        runner.finished(0.01)
    assert "in finished" in capfd.readouterr().err
