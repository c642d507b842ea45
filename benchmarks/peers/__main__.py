"""Install the peers of the benchmark: `make peers`. What is there already is left alone."""

from __future__ import annotations

import sys
import time

from benchmarks.peers.environments import NAMES, InstallError, install, python_of


def main() -> None:
    """Install what is missing; ends with 1 when something cannot be installed, after trying the others."""
    failed = []
    for name in NAMES:
        if python_of(name):
            _tell(f"{name}: is there")
            continue
        _tell(f"{name}: installing")
        began = time.monotonic()
        try:
            install(name)
        except InstallError as error:
            failed.append(str(error))
            _tell(f"{name}: failed")
        else:
            _tell(f"{name}: installed in {time.monotonic() - began:.1f} s")
    if failed:
        sys.exit("\n" + "\n\n".join(failed))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
