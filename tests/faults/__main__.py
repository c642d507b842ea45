"""The long run: `python -m tests.faults`. Exit status 1 if any figure is not reached.

A million events on real Kafka while workers and brokers are killed and frozen, groups are rebalanced and ends of
transactions are lost or late. Each phase keeps its result as it ends, so that a run can go on where it was cut off
(`--only` names phases), and the table is made of all that are kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.report import RESULTS, goals
from tests.faults.long_run import PHASES, Run
from tests.faults.report import figures, keep, load, summary

COMMITTED = RESULTS / "faults.json"
CUT = Path(".cache") / "faults.json"


def main() -> None:
    """Run the phases asked for, and say what came of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default=",".join(PHASES), help="phases, with commas between them (all: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the faults and events, for a cut (1)")
    parser.add_argument(
        "--out", type=Path, help=f"where the result is kept ({COMMITTED.name} of the benchmarks, or of .cache)"
    )
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - set(PHASES):
        parser.error(f"there is no phase {', '.join(unknown)}; there are {', '.join(PHASES)}")
    out = asked.out or (COMMITTED if asked.share == 1 else CUT)
    for name in names:
        run_phase(name, asked.share, out)
    phases = {name: phase for name, phase in load(out).items() if phase.share == asked.share}
    found = figures(phases, asked.share, names)
    print(f"\n{summary(phases)}\n\n{goals(found)}")
    for phase in phases.values():
        for note in phase.notes:
            print(f"{phase.name}: {note}", file=sys.stderr)
    sys.exit(0 if all(figure.ok for figure in found) else 1)


def run_phase(name: str, share: float, out: Path) -> None:
    """Run one; one that breaks off leaves none of its own behind, and the next goes on."""
    keep_none(name, out)
    began = time.monotonic()
    folder = tempfile.mkdtemp(prefix="streamer-faults-")
    try:
        phase = PHASES[name](Run(share, Path(folder)))
    except Exception:
        traceback.print_exc()
        gone = f"{time.monotonic() - began:.0f} s"
        print(f"[{name}] broke off after {gone}; the workers' logs are in {folder}", file=sys.stderr, flush=True)
        return
    keep(phase, out)
    if phase.exact():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"[{name}] is not exact; the logs of its workers and brokers are in {folder}", file=sys.stderr)
    print(f"[{name}] ended after {phase.seconds:.0f} s: {phase.events:,} events, {dict(phase.faults)}", flush=True)


def keep_none(name: str, out: Path) -> None:
    """Forget what an earlier run has found of this phase."""
    phases = load(out)
    if phases.pop(name, None) is not None:
        out.unlink()
        for phase in phases.values():
            keep(phase, out)


if __name__ == "__main__":
    main()
