import pytest
import torch
from pydantic import BaseModel

from streamer.clock import Deadline, SystemClock
from streamer.device.runner import Inference, ThreadRunner
from streamer.errors import Internal, Reason, Reject, Temporary
from streamer.records import Rejected
from streamer.slices import Batch
from tests.echo import Echo, Ping, Pong, ping
from tests.slices import rows


def events(count: int, **faults) -> list[Ping]:
    return [ping(n, fault=faults.get(f"at_{n}", "")) for n in range(count)]


def batch(count: int, **faults) -> Batch:
    """Events of two slices."""
    halves = [half for half in (range(count // 2), range(count // 2, count)) if half]
    parts = [rows(*half, partition=partition) for partition, half in enumerate(halves)]
    for part in parts:
        part.columns.events = [ping(n, fault=faults.get(f"at_{n}", "")) for n in part.columns.offsets]
    return Batch(parts, "idle", count, 0.0)


def run(worker, count=4, bytes_max=1000, **faults):
    return Inference(worker, torch.device("cpu"), bytes_max).run(events(count, **faults))


def test_a_failure_names_its_line_in_the_worker_and_not_its_text():
    class Typo(Echo):
        def decode(self, events, outputs):
            return outputs["no such output"]

    class Deep(Echo):
        def decode(self, events, outputs):
            return torch.tensor([1]).reshape(5).tolist()

    for worker in (Typo(), Deep()):
        rejected = run(worker, 1)[0]
        line = worker.decode.__func__.__code__.co_firstlineno + 1
        assert rejected.message == f"the worker raised {rejected.error} in decode, line {line} of test_runner.py"


def test_answers_are_json_in_order():
    assert run(Echo(), 3) == [b'{"double":%d.0}' % (2 * n) for n in range(3)]


class Consuming(Echo):
    """Uses up the lists that it is given."""

    def encode(self, events, features):
        tensors = super().encode(events, features)
        events.pop(0)
        features.clear()
        return tensors

    def decode(self, events, outputs):
        answers = super().decode(events, outputs)
        events.clear()
        return answers


def test_a_worker_that_changes_its_lists_gives_nobody_the_answer_of_another():
    assert run(Consuming(), 3) == [b'{"double":%d.0}' % (2 * n) for n in range(3)]
    outcomes = run(Consuming(), 4, at_2="raise")
    assert [o if isinstance(o, bytes) else o.reason for o in outcomes] == [
        b'{"double":0.0}', b'{"double":2.0}', Reason.MODEL_ERROR, b'{"double":6.0}',
    ]  # fmt: skip


def test_a_culprit_among_n_costs_about_two_log_n_runs():
    worker = Echo()
    outcomes = run(worker, 64, at_37="raise")
    assert [type(o) for o in outcomes].index(Rejected) == 37
    assert len([o for o in outcomes if isinstance(o, Rejected)]) == 1
    assert len(worker.runs) == 1 + 2 * 6


def test_a_row_that_is_not_finite_is_rejected_alone_without_another_run():
    worker = Echo()
    outcomes = run(worker, 8, at_2="nan")
    assert [n for n, o in enumerate(outcomes) if isinstance(o, Rejected)] == [2]
    assert outcomes[2].reason is Reason.NOT_FINITE
    assert len(worker.runs) == 1


class Changed(Echo):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def predict(self, tensors):
        return self.change(super().predict(tensors))


@pytest.mark.parametrize(
    "change",
    [
        lambda out: {"double": out["double"][:-1]},
        lambda out: {"double": torch.tensor(1.0)},
        lambda out: {**out, "more": torch.zeros(len(out["double"]) + 1)},
    ],
)
def test_an_output_of_the_wrong_shape_is_a_failure(change):
    assert {o.reason for o in run(Changed(change))} == {Reason.WRONG_SHAPE}


def test_integer_outputs_need_not_be_finite():
    assert all(isinstance(o, bytes) for o in run(Changed(lambda out: {"double": out["double"].long()})))


class FewAnswers(Echo):
    def decode(self, events, outputs):
        return super().decode(events, outputs)[1:]


class OtherAnswers(Echo):
    def decode(self, events, outputs):
        class Other(BaseModel):
            x: int = 1

        return [Other() for _ in events]


@pytest.mark.parametrize("worker", [FewAnswers(), OtherAnswers()])
def test_a_worker_that_breaks_its_word_is_a_failure(worker):
    assert {o.reason for o in run(worker)} == {Reason.WRONG_SHAPE}


def test_an_answer_that_no_record_can_hold_is_rejected():
    assert {o.reason for o in run(Echo(), bytes_max=5)} == {Reason.ANSWER_TOO_LARGE}


def test_out_of_memory_halves_until_it_fits():
    sizes = []

    def small_memory(out):
        sizes.append(len(out["double"]))
        if len(out["double"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return out

    assert all(isinstance(o, bytes) for o in run(Changed(small_memory), 8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_an_event_that_alone_has_no_memory_says_so(error):
    def none(out):
        raise error

    assert {o.reason for o in run(Changed(none), 2)} == {Reason.OUT_OF_MEMORY}


def test_a_worker_may_reject_an_event_with_its_own_reason():
    def reject(out):
        raise Reject(Reason.INVALID, "no such currency")

    assert run(Changed(reject), 1) == [Rejected(Reason.INVALID, "no such currency", "Reject")]


def test_a_broken_device_is_no_poison_record():
    def broken(out):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.raises(Temporary, match="start the process again"):
        run(Changed(broken))


@pytest.fixture
def runner():
    made = ThreadRunner(Inference(Echo(), torch.device("cpu"), 1000))
    made.start()
    yield made
    made.close(Deadline(SystemClock(), 5))


def test_the_thread_answers_in_order_of_submission(runner):
    first, second = batch(3), batch(5)
    runner.submit(first)
    runner.submit(second)
    results = []
    while len(results) < 2:
        results += runner.finished(5.0)
    assert [result.batch for result in results] == [first, second]
    assert runner.out() == 0
    assert all(result.seconds > 0 for result in results)


def test_no_more_than_two_batches_are_out(runner):
    runner.submit(batch(1))
    runner.submit(batch(1))
    with pytest.raises(Internal, match="takes no more"):
        runner.submit(batch(1))


def test_with_nothing_out_nobody_waits(runner):
    assert runner.finished(1000.0) == []


def test_what_kills_the_thread_is_raised_to_the_owner():
    def broken(out):
        raise torch.AcceleratorError("x")

    runner = ThreadRunner(Inference(Changed(broken), torch.device("cpu"), 1000))
    runner.start()
    runner.submit(batch(1))
    with pytest.raises(Temporary):
        runner.finished(5.0)


def test_answers_conform_to_the_declared_model():
    (outcome,) = run(Echo(), 1)
    assert Pong.model_validate_json(outcome) == Pong(double=0.0)


def test_rows_that_are_not_finite_never_reach_decode():
    class Bounded(Echo):
        def decode(self, events, outputs):
            assert all(value == value for value in outputs["double"].tolist()), "NaN"
            return super().decode(events, outputs)

    outcomes = run(Bounded(), 6, at_0="nan", at_3="nan")
    assert [n for n, o in enumerate(outcomes) if isinstance(o, Rejected)] == [0, 3]
    assert outcomes[4] == b'{"double":8.0}'
    assert {o.reason for o in run(Bounded(), 2, at_0="nan", at_1="nan")} == {Reason.NOT_FINITE}
