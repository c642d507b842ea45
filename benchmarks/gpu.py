"""How near the engine comes to the bare model on a GPU: `python -m benchmarks.gpu`. It needs no Kafka and no network.

A Transformer of 12 layers (width 768, bfloat16) on texts of 8 to 128 letters, and a small network on 16 numbers. Each
is measured bare first: full batches of one length that lie on the GPU already, called plainly and as CUDA graphs, with
the size of batch that suits it best. Then the engine answers the same events with that size of batch: it decodes,
validates, batches by length, encodes, copies, runs, checks, writes JSON and keeps the order, all in this process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import torch

from benchmarks import report
from benchmarks.gpu_engine import Run, serve, values_of
from benchmarks.gpu_workers import Rate, Read, TinyRead
from schemas import Event
from streamer.records import BUCKETS, BatchPolicy
from streamer.worker import Tensors, Worker

EVENTS = 20_000
"""Different ones; a run repeats them."""
ROUND = 100
"""Batches of the bare model between two waits for the GPU, of all lengths as the events have them."""
SCORES_DIFFER_MAX = 0.02
"""Scores of one event in batches of other shapes: bfloat16 has eight bits."""
ENCODER_GOAL, IDLE_MAX = 0.90, 0.05
COMMAND = "python -m benchmarks.gpu"

Batches = list[tuple[int, Tensors]]
"""Full batches on the device, and how many events each stands for."""


class Kind(NamedTuple):
    """A worker to measure, the sizes of batch to try, with how many different events, and for how long each."""

    about: str
    worker: Callable[[], Worker[Any, Any]]
    policies: Sequence[BatchPolicy]
    events: int
    seconds: float


GPU_KINDS = (
    Kind(
        "encoder, 12 layers of 768, bf16",
        Read,
        [BatchPolicy(cost_max=cost) for cost in (4096, 8192, 16384, 32768, 65536)],
        EVENTS,
        10.0,
    ),
    Kind("network 16-256-256-2", Rate, [BatchPolicy(items_max=items) for items in (1024, 4096)], EVENTS, 10.0),
)
TINY_KINDS = (
    Kind("tiny encoder", TinyRead, [BatchPolicy(cost_max=512)], 300, 0.3),
    Kind("network 16-256-256-2", Rate, [BatchPolicy(items_max=64)], 300, 0.3),
)


class Bare(NamedTuple):
    """Events a second of the model alone, called plainly and as CUDA graphs."""

    policy: BatchPolicy
    plain: float
    graphs: float | None

    @property
    def best(self) -> float:
        return max(self.plain, self.graphs or 0.0)


def main() -> None:
    """Measure, and print one table."""
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: torch sees no GPU here; --device cpu runs a tiny version, to see that all of it works")
    torch.set_num_threads(1)
    device = torch.device(options.device, 0)
    print(report.machine(), flush=True)
    rows = [
        ["work", "batch", "bare", "bare, graphs", "engine", "of best", "engine, graphs", "of best", "idle", "CPU us"]
    ]
    figures: list[report.Figure] = []
    with installed():
        for kind in GPU_KINDS if device.type == "cuda" else TINY_KINDS:
            bare, runs = measure(kind, device, options.seconds or kind.seconds)
            rows.append(_row(kind, bare, runs))
            figures += _figures(kind, bare, runs)
    print(report.table(rows))
    print(
        LIMITS
        if device.type == "cuda"
        else "\nFigures of --device cpu mean nothing: it only shows that all of it works."
    )
    if options.results:
        report.write(figures, options.results)


LIMITS = """
`of best` is the engine's rate as a share of the bare model's better one; `idle` the share of the time in which no batch
was on the GPU, of the engine with graphs (gaps within a batch that is called plainly are not seen); `CPU us` the CPU
time an event of the engine's own thread + of all others, mostly the runner's. Where both together are near the time an
event has, Python's lock is what limits. One process, events from memory: a real Kafka takes CPU of its own."""


def measure(kind: Kind, device: torch.device, seconds: float) -> tuple[Bare, list[Run]]:
    """The bare model, and the engine with the best size of batch: plainly, and with graphs where there are any.

    Raises:
        AssertionError: an answer of the engine is not the model's.
    """
    worker = kind.worker()
    worker.load(None, device)  # type: ignore[arg-type]
    random = Random(report.__name__)
    events = [worker.sample(random, number) for number in range(kind.events)]
    tried = [_bare(worker, events, policy, device, seconds) for policy in kind.policies]
    bare = max(tried, key=lambda each: each.best)
    values, runs = values_of(events), []
    for graphs in (False, True) if device.type == "cuda" else (False,):
        worker.graphs = graphs  # type: ignore[misc]
        report.tell(f"{kind.about}: the engine, graphs {'on' if graphs else 'off'}")
        runs.append(serve(worker, values, round(bare.best * seconds), bare.policy, device))
        check(worker, events, runs[-1], device)
    return bare, runs


def _bare(
    worker: Worker[Any, Any], events: Sequence[Event], policy: BatchPolicy, device: torch.device, seconds: float
) -> Bare:
    report.tell(f"{worker.name}: the bare model, {policy.items_max} events of cost {policy.cost_max} at most")
    batches = full_batches(worker, events, policy, device)
    plain = _rate([partial(worker.predict, tensors) for _, tensors in batches], batches, seconds)
    if device.type != "cuda":
        return Bare(policy, plain, None)
    return Bare(policy, plain, _rate(_graphs(worker, batches), batches, seconds))


def full_batches(
    worker: Worker[Any, Any], events: Sequence[Event], policy: BatchPolicy, device: torch.device
) -> Batches:
    """For each length bound a full batch of its events, on the device, and how many events it stands for."""
    by_bound: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        by_bound[next(bound for bound in BUCKETS if bound >= worker.cost(event))].append(event)
    batches: Batches = []
    for bound, alike in by_bound.items():
        rows = max(1, min(policy.items_max, policy.cost_max // bound))
        batch = [alike[at % len(alike)] for at in range(rows)]
        tensors = worker.encode(batch, [{}] * rows)
        batches.append((len(alike), {name: tensor.to(device) for name, tensor in tensors.items()}))
    return batches


@torch.inference_mode()
def _rate(calls: Sequence[Callable[[], object]], batches: Batches, seconds: float) -> float:
    """Events a second when each batch is run as often as the events of its length ask for."""
    sizes = [next(iter(tensors.values())).shape[0] for _, tensors in batches]
    shares = [events / size for (events, _), size in zip(batches, sizes, strict=True)]
    times = [max(1, round(ROUND * share / sum(shares))) for share in shares]
    turn = [call for call, count in zip(calls, times, strict=True) for _ in range(count)]
    for call in calls:
        call()
    turns, begun = 0, _settled()
    while _settled() - begun < seconds / 2:  # the host must not run minutes ahead of the GPU
        for call in turn:
            call()
        turns += 1
    return turns * sum(size * count for size, count in zip(sizes, times, strict=True)) / (_settled() - begun)


def _settled() -> float:
    """The time when nothing computes any more."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def _graphs(worker: Worker[Any, Any], batches: Batches) -> list[Callable[[], object]]:
    pool, replays = torch.cuda.graph_pool_handle(), []
    for _, tensors in batches:
        worker.predict(tensors)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            worker.predict(tensors)
        replays.append(graph.replay)
    return replays


@torch.inference_mode()
def check(worker: Worker[Any, Any], events: Sequence[Event], run: Run, device: torch.device) -> None:
    """Hold what the engine answered first against the model called on one event after the other.

    Raises:
        AssertionError: they differ.
    """
    by_id = {event.event_id: event for event in events}
    for message in run.first[:: max(1, len(run.first) // 50)]:
        said = msgspec.json.decode(message.value or b"")
        tensors = worker.encode([by_id[said["event_id"]]], [{}])
        alone = worker.predict({name: tensor.to(device) for name, tensor in tensors.items()})
        score = said["answer"]["score"]
        assert abs(score - alone["score"].item()) < SCORES_DIFFER_MAX, f"{said['event_id']}: {score}, alone {alone}"


def _row(kind: Kind, bare: Bare, runs: Sequence[Run]) -> list[str]:
    shown = [f"{run.events_per_s:,.0f}" for run in runs] + ["-"] * (2 - len(runs))
    shares = [f"{run.events_per_s / bare.best:.2f}" for run in runs] + ["-"] * (2 - len(runs))
    last = runs[-1]
    return [
        kind.about,
        f"{last.batch:,.0f}",
        f"{bare.plain:,.0f}",
        f"{bare.graphs:,.0f}" if bare.graphs else "-",
        shown[0],
        shares[0],
        shown[1],
        shares[1],
        f"{last.idle:.1%}",
        f"{last.owner_us:.1f} + {last.others_us:.1f}",
    ]


def _figures(kind: Kind, bare: Bare, runs: Sequence[Run]) -> list[report.Figure]:
    best = max(runs, key=lambda run: run.events_per_s)
    rate, idle = f"{kind.about}: events/s", f"{kind.about}: share of time in which the GPU is idle"
    if kind.worker is Rate:
        share = best.events_per_s / bare.best
        return [
            report.shown(rate, best.events_per_s, COMMAND)._replace(against=round(bare.best, 1), ratio=round(share, 4)),
            report.shown(idle, best.idle, COMMAND),
        ]
    return [
        report.at_least(rate, best.events_per_s, bare.best, ENCODER_GOAL, COMMAND),
        report.at_most(idle, best.idle, None, IDLE_MAX, COMMAND),
    ]


@contextmanager
def installed() -> Iterator[None]:
    """Metrics name the version of the installed package; where only the checkout is, this stands for it."""
    try:
        importlib.metadata.version("streamer")
    except importlib.metadata.PackageNotFoundError:
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "streamer-0.dist-info" / "METADATA"
            said.parent.mkdir()
            said.write_text("Metadata-Version: 2.1\nName: streamer\nVersion: 0\n")
            sys.path.append(folder)
            yield
            sys.path.remove(folder)
    else:
        yield


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a tiny version, for a test")
    parser.add_argument("--seconds", type=float, help="of each measurement (default: 10)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where to keep the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
