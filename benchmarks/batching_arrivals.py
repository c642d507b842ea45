"""Events of a seeded imagination: how long texts are, and when they come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random

from benchmarks.batching_simulation import Arrival

PARTITIONS = 4
WORDS_MIN, WORDS_MAX = 8, 40
LOG_MEAN, LOG_SPREAD = 2.33, 0.50
"""Logarithm of the words of a text: mean and standard deviation over the 11,543 queries of Banking77."""

READ_EVERY_S = 0.001
"""What is sent within a millisecond is read together."""

BURST_S, PAUSE_S = 0.1, 0.1
BACKLOG_S = 2.0
"""Work that waits at the start, in seconds of the best possible rate."""
BACKLOG_AGE_S = 3600.0

Shape = Callable[[Random, float, float, float], list[Arrival]]
"""Arrivals by a seeded `Random`, the best possible rate, the rate (both in events a second) and the seconds."""


def word_count(random: Random) -> int:
    """The words of one text: log-normal, from 8 to 40."""
    while not WORDS_MIN <= (words := round(random.lognormvariate(LOG_MEAN, LOG_SPREAD))) <= WORDS_MAX:
        pass
    return words


def steady(random: Random, best: float, rate: float, seconds: float) -> list[Arrival]:
    """A Poisson stream."""
    return [_fresh(random, moment) for moment in _poisson(random, rate, 0.0, seconds)]


def bursty(random: Random, best: float, rate: float, seconds: float) -> list[Arrival]:
    """Twice the rate for 0.1 s, then nothing for 0.1 s."""
    starts = [number * (BURST_S + PAUSE_S) for number in range(math.ceil(seconds / (BURST_S + PAUSE_S)))]
    double = rate * (BURST_S + PAUSE_S) / BURST_S
    return [
        _fresh(random, moment)
        for start in starts
        for moment in _poisson(random, double, start, min(start + BURST_S, seconds))
    ]


def backlog(random: Random, best: float, rate: float, seconds: float) -> list[Arrival]:
    """Two seconds of work, an hour old, and behind it a Poisson stream of twice the `seconds`."""
    old = [
        Arrival(-BACKLOG_AGE_S, 0.0, word_count(random), random.randrange(PARTITIONS))
        for _ in range(round(best * BACKLOG_S))
    ]
    return old + steady(random, best, rate, 2 * seconds)


SHAPES: dict[str, Shape] = {"steady": steady, "bursty": bursty, "backlog": backlog}


def _poisson(random: Random, rate: float, start: float, end: float) -> Iterator[float]:
    moment = start
    while (moment := moment + random.expovariate(rate)) < end:
        yield moment


def _fresh(random: Random, moment: float) -> Arrival:
    read_s = math.ceil(moment / READ_EVERY_S) * READ_EVERY_S
    return Arrival(moment, read_s, word_count(random), random.randrange(PARTITIONS))
