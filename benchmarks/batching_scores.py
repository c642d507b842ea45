"""What the batching benchmark measures, for its table and its picture."""

from __future__ import annotations

from typing import NamedTuple


class Score(NamedTuple):
    """What a contender did of one load. `goodput` is of released answers, `goodput_unordered` of answers as their
    batch ends; `drained_s` is None without a backlog."""

    profile: str
    shape: str
    load: float
    contender: str
    events: int
    goodput: float
    goodput_unordered: float
    items_per_batch: float
    busy: float
    drained_s: float | None
