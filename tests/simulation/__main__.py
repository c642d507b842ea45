"""Many schedules, each from its seed: `python -m tests.simulation --seeds 50000`; one again: `--seed N`."""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from tests.simulation.bugs import BUGS
from tests.simulation.schedule import Broken, World

CHUNK = 100
SHOWN = 10


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing below critical is logged: what a schedule provokes is no news."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def play(seed: int, bug: str | None) -> tuple[str | None, Counter[str]]:
    """What is wrong with the schedule of this seed, and the faults that it injected."""
    world = World(seed, BUGS[bug]) if bug else World(seed)
    try:
        world.run()
    except Broken as error:
        return str(error), world.faults
    except Exception as error:  # whatever else comes out of the engine is a failure of the schedule
        return f"{type(error).__name__}: {error}", world.faults
    return None, world.faults


def play_many(seeds: range, bug: str | None) -> tuple[int, dict[int, str], Counter[str]]:
    """How many were played, what is wrong with which, and the faults."""
    found: dict[int, str] = {}
    faults: Counter[str] = Counter()
    with quiet():
        for seed in seeds:
            wrong, injected = play(seed, bug)
            faults += injected
            if wrong is not None:
                found[seed] = wrong
    return len(seeds), found, faults


def main() -> int:
    """Play, say what was found; 1 when a promise did not hold."""
    options = _options()
    if options.seed is not None:
        return replay(options.seed, options.bug)
    seeds = [range(at, min(at + CHUNK, options.end)) for at in range(options.start, options.end, CHUNK)]
    began = time.monotonic()
    played, found, faults = 0, dict[int, str](), Counter[str]()
    gc.freeze()  # what is imported lives for ever: no collection need walk it
    with multiprocessing.Pool(options.processes) as pool:
        for count, wrong, injected in pool.imap_unordered(partial(play_many, bug=options.bug), seeds):
            played += count
            found |= wrong
            faults += injected
            rate = played / (time.monotonic() - began)
            print(f"\r{played} schedules, {len(found)} failed, {rate:.0f}/s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return report(played, found, faults, time.monotonic() - began, options.bug)


def replay(seed: int, bug: str | None) -> int:
    """One schedule, told step by step."""
    with quiet():
        world = World(seed, BUGS[bug], print) if bug else World(seed, say=print)
        try:
            world.run()
        except Broken as error:
            print(f"seed {seed}: {error}")
            return 1
    print(f"seed {seed}: every promise held; {dict(world.faults)}")
    return 0


def report(played: int, found: dict[int, str], faults: Counter[str], seconds: float, bug: str | None) -> int:
    """Print the figures and the failing seeds, each with the command that plays it again."""
    print(f"{played} schedules in {seconds:.0f} s, {played / seconds:.0f}/s; {faults.total()} faults:")
    for fault, count in sorted(faults.items(), key=lambda pair: -pair[1]):
        print(f"  {count:8}  {fault}")
    if not found:
        print("every promise held: 0 lost, 0 duplicated, 0 torn, order and positions exact")
        return 0
    print(f"{len(found)} schedules failed:")
    planted = f" --bug '{bug}'" if bug else ""
    for seed, wrong in sorted(found.items())[:SHOWN]:
        first = wrong.splitlines()[0]
        print(f"  {first}\n    python -m tests.simulation --seed {seed}{planted}")
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50_000, help="how many schedules")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one, and say what happens")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this bug in every worker")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at a time")
    options = parser.parse_args()
    options.end = options.start + options.seeds
    return options


if __name__ == "__main__":
    sys.exit(main())
