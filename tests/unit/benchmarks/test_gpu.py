"""The benchmark for a GPU, as far as a CPU shows it: it runs, checks its answers and says what it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_workers import TinyRead
from streamer.records import BUCKETS, BatchPolicy

ROOT = Path(__file__).parents[3]
LEFT_OUT = ("pydantic_settings", "safetensors", "tokenizers", "typer", "rich", "streamer.app", "streamer.testing")
"""What a machine that only has torch and the engine's own needs does not have."""
BARE = f"import sys; sys.modules.update(dict.fromkeys({LEFT_OUT!r})); from benchmarks import gpu; gpu.main()"


def command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE, *options], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def test_it_runs_with_little_installed(tmp_path):
    done = command("--device", "cpu", "--seconds", "0.2", "--results", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    assert "tiny encoder" in done.stdout
    assert "mean nothing" in done.stdout
    assert (tmp_path / "gpu.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it takes minutes")
def test_without_a_gpu_it_says_so():
    done = command()
    assert done.returncode == 1
    assert "torch sees no GPU here" in done.stderr


def reader() -> TinyRead:
    worker = TinyRead()
    worker.load(None, torch.device("cpu"))
    return worker


def test_the_bare_model_gets_full_batches_of_one_length():
    worker = reader()
    events = [worker.sample(Random(number), number) for number in range(200)]
    batches = gpu.full_batches(worker, events, BatchPolicy(items_max=20, cost_max=512), torch.device("cpu"))
    assert sum(count for count, _ in batches) == 200
    for _, tensors in batches:
        rows, length = tensors["letters"].shape
        assert length in BUCKETS
        assert rows == min(20, 512 // length)


def test_a_wrong_answer_is_found():
    worker = reader()
    events = [worker.sample(Random(number), number) for number in range(200)]
    run = gpu.serve(worker, gpu.values_of(events), 300, BatchPolicy(cost_max=512), torch.device("cpu"))
    gpu.check(worker, events, run, torch.device("cpu"))
    torch.manual_seed(0)
    torch.nn.init.normal_(worker.network.out.weight, std=9)
    with pytest.raises(AssertionError, match="alone"):
        gpu.check(worker, events, run, torch.device("cpu"))
