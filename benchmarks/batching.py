"""Which batches answer most events in time? Deadline and cost rules against a fixed size and a linger, simulated.

The real `streamer.engine.batcher.Batcher` and fixed policies make batches of the same seeded events for a runner whose
batch takes a + b * words, padding included. Simulated time: the result depends on the seed alone, not on the machine.

Goodput is the share of the fresh events whose answer is released within 50 ms of their timestamp. Released: in the
order of the partition, behind slower ones before it, as the ledger does; a policy that reorders pays for that here.
Load is a share of the best possible rate: all texts sorted by length, in full batches within the budget, without a
pause. Of a backlog only the fresh events behind it count; "drained" is when its last event is answered.

a and b are inputs. "text": a 2-layer Transformer, d = 128, feed-forward 256, on one CPU thread, fitted to batches of 8
to 1,000 words (a 0.49 ms, b 11.2 us; larger batches are slower per word, up to 17 us, which is not simulated).
"gpu-like" is not measured: a high fixed cost, so that half the speed needs a batch of 1,000 words.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from benchmarks import report
from benchmarks.batching_arrivals import SHAPES, word_count
from benchmarks.batching_policies import CONTENDERS, GOAL_S, OURS, Contender
from benchmarks.batching_scores import Score
from benchmarks.batching_simulation import Arrival, Profile, capacity, in_order, simulate

PROFILES = (
    Profile("text", fixed_s=0.0005, per_word_s=11e-6, cost_max=1_000),
    Profile("gpu-like", fixed_s=0.005, per_word_s=5e-6, cost_max=2_000),
)
LOADS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
SEED = 4
SAMPLE = 20_000
"""Texts from which the best possible rate is computed."""
TIE = 0.01
"""Goodputs that differ by no more are called equal."""
USELESS = 0.1
"""Where neither reaches this goodput, nobody wins."""


def main() -> None:
    """Simulate, print and keep the scores."""
    options = _options()
    try:
        from benchmarks import batching_plot
    except ModuleNotFoundError as error:
        raise SystemExit(f"batching: no {error.name}; the plot needs it: uv pip install --group bench") from error
    rates = best_rates()
    scores = list(measure(rates, options.seconds, LOADS))
    print(summary(scores, rates))
    options.results.mkdir(parents=True, exist_ok=True)
    kept = {
        "command": "python -m benchmarks.batching",
        "goal_s": GOAL_S,
        "seconds": options.seconds,
        "seed": SEED,
        "profiles": [{**profile._asdict(), "best_events_per_s": rates[profile.name]} for profile in PROFILES],
        "scores": [score._asdict() for score in scores],
    }
    (options.results / "batching.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    batching_plot.draw(scores, options.results / "batching.png")


def best_rates() -> dict[str, float]:
    """The best possible rate of each profile, in events a second."""
    random = Random(SEED)
    words = [word_count(random) for _ in range(SAMPLE)]
    return {profile.name: capacity(profile, words) for profile in PROFILES}


def measure(rates: dict[str, float], seconds: float, loads: Sequence[float]) -> Iterator[Score]:
    """Every contender on every load of every shape and profile, all on the same events."""
    for profile in PROFILES:
        best = rates[profile.name]
        for shape, arrive in SHAPES.items():
            for load in loads:
                _tell(f"{profile.name}, {shape}, {load:.0%}")
                arrivals = arrive(Random(f"{SEED} {shape} {load}"), best, load * best, seconds)
                for contender in CONTENDERS:
                    yield score(contender, profile, shape, load, arrivals)


def score(contender: Contender, profile: Profile, shape: str, load: float, arrivals: Sequence[Arrival]) -> Score:
    """Run one contender on arrivals of that shape and load."""
    policy, costs = contender.make(profile)
    run = simulate(policy, costs, profile, arrivals, contender.goal_s)
    old = [answered for arrival, answered in zip(arrivals, run.answered_s, strict=True) if arrival.timestamp_s < 0]
    return Score(
        profile.name,
        shape,
        load,
        contender.name,
        len(arrivals) - len(old),
        round(goodput(arrivals, in_order(arrivals, run.answered_s)), 4),
        round(goodput(arrivals, run.answered_s), 4),
        round(len(arrivals) / run.batches, 1),
        round(run.busy_s / max(run.answered_s), 4),
        round(max(old), 2) if old else None,
    )


def goodput(arrivals: Sequence[Arrival], answered_s: Sequence[float]) -> float:
    """The share of the fresh events that were answered within the goal; of none it is 0."""
    waits = [
        at - arrival.timestamp_s for arrival, at in zip(arrivals, answered_s, strict=True) if arrival.timestamp_s >= 0
    ]
    return sum(wait <= GOAL_S for wait in waits) / len(waits) if waits else 0.0


def verdict(scores: Sequence[Score], rivals: Sequence[str]) -> str:
    """At which loads OURS answers more in time than the best of the rivals, as much, or less, by points of goodput.
    The scores are of one profile and shape."""
    by_load: dict[float, dict[str, float]] = {}
    for each in scores:
        by_load.setdefault(each.load, {})[each.contender] = each.goodput
    found: dict[str, list[str]] = {"wins": [], "ties": [], "loses": [], "both fail": []}
    for load, goodputs in by_load.items():
        ours, best = goodputs[OURS.name], max(goodputs[rival] for rival in rivals)
        if max(ours, best) < USELESS:
            found["both fail"].append(f"{load:.0%}")
        elif abs(ours - best) <= TIE:
            found["ties"].append(f"{load:.0%}")
        else:
            found["wins" if ours > best else "loses"].append(f"{load:.0%} ({100 * (ours - best):+.1f})")
    return "; ".join(f"{what} at {', '.join(loads)}" for what, loads in found.items() if loads)


def summary(scores: Sequence[Score], rates: dict[str, float]) -> str:
    """A table of goodput for each profile and shape, and who wins where."""
    parts = []
    for profile, rate in rates.items():
        for shape in SHAPES:
            of_case = [each for each in scores if (each.profile, each.shape) == (profile, shape)]
            parts.append(f"{profile}, {shape}: goodput in % (100 % load is {rate:,.0f} events/s)\n{_table(of_case)}")
            own = [contender.name for contender in CONTENDERS if not contender.fixed and contender is not OURS]
            fixed = [contender.name for contender in CONTENDERS if contender.fixed]
            for whom, rivals in [("the best fixed", fixed), *((name, [name]) for name in own)]:
                parts[-1] += f"\n{OURS.name} against {whom}: {verdict(of_case, rivals)}"
    return "\n\n".join(parts)


def _table(scores: Sequence[Score]) -> str:
    loads = sorted({each.load for each in scores})
    rows = [["policy", *(f"{load:.0%}" for load in loads)]]
    for contender in CONTENDERS:
        own = [each for each in scores if each.contender == contender.name]
        rows.append([contender.name, *(_cell(each) for each in sorted(own, key=lambda each: each.load))])
    return report.table(rows)


def _cell(score: Score) -> str:
    drained = "" if score.drained_s is None else f", drained {score.drained_s:.1f} s"
    return f"{100 * score.goodput:.1f}{drained}"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks.batching --seconds 1 --results quick",
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, metavar="N", help="simulated seconds of each load (default: 4)"
    )
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, metavar="DIR", help="where batching.json and .png are written"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
