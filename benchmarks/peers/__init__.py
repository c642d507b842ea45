"""The frameworks that `streamer` is measured against, each in a virtual environment of its own under `.cache/peers`.

Their dependencies conflict with ours and with each other: Quix, for one, pins an older confluent-kafka. `make peers`
makes the environments from the locks in this folder; torch, msgspec and whatever else an environment lacks come from
the main one, through a .pth file. A lock is made from its `.in` file, as `make lock` makes ours.
"""

from benchmarks.peers.environments import NAMES, python_of

__all__ = ["NAMES", "python_of"]
