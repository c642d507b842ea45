import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

from streamer import app
from streamer.device.runner import Inference
from streamer.errors import BadConfig
from streamer.process import slot
from streamer.settings import Settings
from tests.echo import Echo


def test_the_device_is_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert app.choose_device("auto").type == expected
    assert app.choose_device("cpu").type == "cpu"


def test_a_gpu_that_is_not_there_is_an_error_with_a_cure():
    with pytest.raises(BadConfig, match="set device to cpu or auto"):
        app.choose_device("cuda:99")


def test_a_model_that_does_not_answer_its_example_does_not_start():
    class Broken(Echo):
        def predict(self, tensors):
            raise RuntimeError("shapes")

    with pytest.raises(BadConfig, match="does not answer its own example: model-error"):
        app.warm_up(Broken(), Inference(Broken(), torch.device("cpu"), 1000))


def test_the_exception_behind_it_is_shown_whole_with_the_workers_own_lines(capsys):
    class Broken(Echo):
        def predict(self, tensors):
            return self.network(tensors)

        def network(self, tensors):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(BadConfig):
        app.warm_up(Broken(), Inference(Broken(), torch.device("cpu"), 1000))
    shown = capsys.readouterr().err
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in shown
    assert "in network" in shown
    assert "streamer/device" not in shown


@pytest.mark.parametrize(("errors", "told"), [("class", False), ("full", True)])
def test_on_the_stream_the_text_of_an_exception_is_shown_only_if_asked_for(capsys, errors, told):
    class Broken(Echo):
        def decode(self, events, outputs):
            raise RuntimeError("a customer's words")

    settings = Settings.model_validate({"log": {"errors": errors}})
    _, inference = app._runner(settings, Broken(), torch.device("cpu"))
    (outcome,) = inference.run([Broken.example])
    assert "customer" not in outcome.message
    assert ("a customer's words" in capsys.readouterr().err) is told


def test_warm_up_runs_one_event_and_a_batch():
    worker = Echo()
    app.warm_up(worker, Inference(worker, torch.device("cpu"), 1000))
    assert [len(run) for run in worker.runs] == [1, 8]


def test_settings_become_limits_and_policies():
    settings = Settings.model_validate(
        {
            "batch": {"items_max": 7, "cost_max": 70, "linger_ms": 5, "latency_goal_ms": 50},
            "dead_letters": {"ratio_max": 0.25, "run_max": 3},
            "limits": {"in_flight_max": 9},
            "drain_s": 4,
        }
    )
    policy = app.batch_policy(settings)
    assert (policy.items_max, policy.cost_max, policy.linger_s, policy.goal_s) == (7, 70, 0.005, 0.05)
    limits = app.limits(settings)
    assert (limits.dead_ratio_max, limits.dead_run_max, limits.in_flight_max, limits.drain_s) == (0.25, 3, 9, 4)


TAKE = "import sys; from streamer.process import slot; print(slot.take(sys.argv[1]), flush=True); sys.stdin.read()"


def test_each_replica_of_a_host_takes_a_slot_and_a_killed_one_gives_it_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    with ExitStack() as stack:

        def start():
            command = [sys.executable, "-c", TAKE, "group"]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process, process.stdout.readline().strip()

        first, name = start()
        assert name.endswith("-0")
        assert start()[1].endswith("-1")
        first.kill()
        first.wait()
        assert start()[1].endswith("-0")


def test_groups_do_not_share_slots(tmp_path, monkeypatch):
    monkeypatch.setattr(slot.tempfile, "gettempdir", lambda: str(tmp_path))
    assert slot.take("a").endswith("-0")
    assert slot.take("b").endswith("-0")
