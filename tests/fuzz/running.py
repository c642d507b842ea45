"""Runs the targets, times every input, keeps what breaks, and sums up."""

from __future__ import annotations

import gc
import hashlib
import json
import random
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutation import Corpus
from tests.fuzz.targets import Target, targets

HANG_S = 0.1
PROMPT_S = 0.01
ROUND = 2_000
"""Inputs between two looks at the clock, shared by the targets; garbage is collected between two rounds."""
CRASHES_MAX = 5
REPEATS = 10
KEPT = Path(".cache/fuzz")


@dataclass
class Tally:
    """What became of the inputs of one target."""

    target: str
    inputs: int = 0
    crashes: int = 0
    hangs: int = 0
    outcomes: int = 0
    slowest_s: float = 0.0


def fuzz(inputs: int, seconds: float, seed: int, only: Sequence[str] | None = None) -> list[Tally]:
    """Run until `inputs` are done, time is up, or a target has crashed `CRASHES_MAX` times."""
    chosen = [target for name, target in targets().items() if not only or name in only]
    if not chosen:
        raise SystemExit(f"no such target; there is {', '.join(targets())}")
    whole = sum(target.share for target in chosen)
    work = [
        (target, Corpus(target.seeds, random.Random(f"{seed}/{target.name}")), Tally(target.name)) for target in chosen
    ]
    started = said = time.monotonic()
    gc.disable()
    try:
        for done in range(0, inputs, ROUND):
            for target, corpus, tally in work:
                share = max(1, round(min(ROUND, inputs - done) * target.share / whole))
                _round(target, corpus, tally, share)
            gc.collect(0)
            now = time.monotonic()
            if now - said > 5:
                said = now
                _say(done + ROUND, now - started, [tally for _, _, tally in work])
            if now - started > seconds or any(tally.crashes >= CRASHES_MAX for _, _, tally in work):
                break
    finally:
        gc.enable()
    tallies = [tally for _, _, tally in work]
    _say(sum(tally.inputs for tally in tallies), time.monotonic() - started, tallies)
    return tallies


def _round(target: Target, corpus: Corpus, tally: Tally, count: int) -> None:
    clock = time.monotonic
    run = target.run
    for _ in range(count):
        data = corpus.next()
        before = clock()
        try:
            outcome = run(data)
        except Exception as error:
            tally.crashes += 1
            keep(target, data, error)
            continue
        took = clock() - before
        if took > tally.slowest_s:
            took = _again(target, data, took)
            tally.slowest_s = max(took, tally.slowest_s)
            if took > HANG_S:
                tally.hangs += 1
                keep(target, data, TimeoutError(f"{took:.3f} s"))
        corpus.learn(data, outcome)
    tally.inputs += count
    tally.outcomes = corpus.outcomes


def _again(target: Target, data: bytes, took: float) -> float:
    """The shortest of several runs: on a busy machine the first may have waited for a processor."""
    for _ in range(REPEATS):
        if took <= PROMPT_S:
            break
        before = time.monotonic()
        target.run(data)
        took = min(took, time.monotonic() - before)
    return took


def keep(target: Target, data: bytes, error: BaseException) -> Path:
    """Write down an input that broke something, and say how to see it again."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    why = traceback.format_exception_only(error)[-1].strip()
    print(f"\n{target.name}: {why[:500]}\n  python -m tests.fuzz --replay {path}", file=sys.stderr)
    return path


def replay(path: Path) -> int:
    """One input again, with the whole traceback."""
    target = next(target for name, target in targets().items() if path.name.startswith(f"{name}-"))
    before = time.monotonic()
    print(target.run(path.read_bytes()))
    took = time.monotonic() - before
    print(f"{took * 1000:.1f} ms")
    return int(took > HANG_S)


def cover(name: str, seconds: float) -> int:
    """One target guided by the coverage of our own code, until time is up or something breaks."""
    import atheris

    for module in [module for module in sys.modules if module.split(".")[0] in ("streamer", "schemas")]:
        del sys.modules[module]
    with atheris.instrument_imports(include=["streamer", "schemas"]):
        import importlib

        from tests.fuzz import targets as plain

        target = importlib.reload(plain).targets()[name]

    def one(data: bytes) -> None:
        try:
            target.run(data)
        except Exception as error:
            keep(target, data, error)
            raise

    folder = KEPT / f"corpus-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (folder / hashlib.sha256(seed).hexdigest()[:12]).write_bytes(seed)
    limit = [f"-max_total_time={int(seconds)}"] if seconds != float("inf") else []
    atheris.Setup(["fuzz", str(folder), "-timeout=1", "-max_len=20000", *limit], one)
    atheris.Fuzz()
    return 0


def record(path: Path, tallies: Sequence[Tally]) -> None:
    """Add to the sums in a file, as the other results have them."""
    old = {row["what"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    path.write_text(json.dumps(list(_rows(old, tallies)), indent=2) + "\n")


def _rows(old: dict[str, dict[str, object]], tallies: Sequence[Tally]) -> Iterator[dict[str, object]]:
    sums: dict[str, float] = {what: float(str(row["ours"])) for what, row in old.items()}
    for tally in tallies:
        for what, count in (("inputs", tally.inputs), ("crashes", tally.crashes), ("hangs", tally.hangs)):
            for name in (tally.target, "all"):
                sums[f"fuzz: {name}: {what}"] = sums.get(f"fuzz: {name}: {what}", 0) + count
        slowest = f"fuzz: {tally.target}: slowest ms"
        sums[slowest] = round(max(sums.get(slowest, 0.0), tally.slowest_s * 1000), 3)
    for what in sorted(sums):
        goal = {"crashes": "0", "hangs": "0", "slowest ms": "<= 100"}.get(what.rpartition(": ")[2], "")
        ok = sums[what] <= (100 if "slowest" in what else 0) if goal else True
        yield {
            "what": what,
            "ours": sums[what],
            "against": None,
            "ratio": None,
            "goal": goal,
            "ok": ok,
            "command": "python -m tests.fuzz --record benchmarks/results/fuzz.json",
            "runs": [],
        }


def _say(done: int, seconds: float, tallies: Sequence[Tally]) -> None:
    crashes, hangs = sum(tally.crashes for tally in tallies), sum(tally.hangs for tally in tallies)
    outcomes = sum(tally.outcomes for tally in tallies)
    slowest = max(tally.slowest_s for tally in tallies) * 1000
    print(
        f"{done:,} inputs in {seconds:.0f} s ({done / max(seconds, 0.001):,.0f}/s): {crashes} crashes, {hangs} hangs, "
        f"{outcomes:,} different outcomes, slowest {slowest:.1f} ms",
        file=sys.stderr,
        flush=True,
    )
