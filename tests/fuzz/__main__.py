"""`python -m tests.fuzz`: an endless supply of broken inputs, and what they broke.

    --inputs 10000000 [--seconds 120]   until so many, or so long
    --only record-lead --seed 7         one target; the same inputs again
    --replay FILE                       one input, as a crash printed it
    --coverage record-lead --seconds 60 guided by the coverage of our code (atheris)
    --record benchmarks/results/fuzz.json   add what was done to the sums in a file

Ends with 1 if anything crashed, or took longer than 100 ms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz import running


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", metavar="TARGET")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--coverage", metavar="TARGET")
    parser.add_argument("--record", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    if given.replay:
        return running.replay(given.replay)
    if given.coverage:
        return running.cover(given.coverage, given.seconds)
    tallies = running.fuzz(given.inputs, given.seconds, given.seed, given.only)
    if given.record:
        running.record(given.record, tallies)
    return int(any(tally.crashes or tally.hangs for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
