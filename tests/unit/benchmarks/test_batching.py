"""The simulation behind `python -m benchmarks.batching`: what it counts, and that it can tell good from bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from benchmarks import batching
from benchmarks.batching import Score, goodput, score, verdict
from benchmarks.batching_arrivals import SHAPES, bursty, steady, word_count
from benchmarks.batching_policies import CONTENDERS, GOAL_S, OURS, Contender, FixedSize, fixed
from benchmarks.batching_simulation import Arrival, Profile, Run, Stuck, capacity, in_order, simulate
from streamer.engine.batcher import CostModel, Release
from streamer.slices import Batch, Rows
from tests.slices import offsets, rows

PROFILE = Profile("test", fixed_s=0.001, per_word_s=1e-5, cost_max=1_000)
RATE = 1_500.0


def arrivals(shape: str = "steady", seed: int = 1) -> list[Arrival]:
    return SHAPES[shape](Random(seed), RATE, RATE / 2, 0.5)


def at(*moments: float, words: int = 10, partition: int = 0) -> list[Arrival]:
    return [Arrival(moment, moment, words, partition) for moment in moments]


def waiting(*words: int, first: int = 0) -> Rows:
    made = rows(*range(first, first + len(words)))
    made.columns.costs = list(words)
    return made


def run(contender: Contender, events: Sequence[Arrival]) -> Run:
    policy, costs = contender.make(PROFILE)
    return simulate(policy, costs, PROFILE, events, contender.goal_s)


class Hoarder(FixedSize):
    """A bad policy: it never says when it will release what it keeps."""

    def due_in(self, now: float, out: int) -> float | None:
        return None


class Counting(FixedSize):
    """Remembers what it was asked."""

    def __init__(self, items_max: int, linger_s: float) -> None:
        super().__init__(items_max, linger_s)
        self.out_max = 0
        self.taken: list[int] = []

    def ready(self, now: float, out: int) -> Release | None:
        self.out_max = max(self.out_max, out)
        return super().ready(now, out)

    def take(self, now: float, reason: Release) -> Batch:
        batch = super().take(now, reason)
        self.taken += offsets(batch.rows)
        return batch


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_every_event_is_answered_once_and_not_before_a_batch_could(contender: Contender, shape: str):
    events = arrivals(shape)
    found = run(contender, events)
    assert len(found.answered_s) == len(events)
    soonest = [event.read_s + PROFILE.seconds(1, event.words) for event in events]
    assert all(answered >= least - 1e-9 for answered, least in zip(found.answered_s, soonest, strict=True))
    assert found.busy_s <= max(found.answered_s) + 1e-9


def test_each_event_is_taken_once_and_two_batches_are_out_at_most():
    events = arrivals()
    policy = Counting(8, 0.002)
    simulate(policy, CostModel(), PROFILE, events, GOAL_S)
    assert sorted(policy.taken) == list(range(len(events)))
    assert policy.out_max == 1  # asked with one out it may send a second, with two it is not asked


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_the_order_in_which_arrivals_are_listed_changes_no_count(contender: Contender):
    events = arrivals()
    shuffled = events.copy()
    Random(2).shuffle(shuffled)
    for listed in (events, shuffled):
        answered = [moment for moment in run(contender, listed).answered_s if not math.isnan(moment)]
        assert len(answered) == len(events)


def test_a_policy_that_keeps_events_is_found_out():
    with pytest.raises(Stuck, match="must say when"):
        simulate(Hoarder(64, 0.0), CostModel(), PROFILE, at(0.0), GOAL_S)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bad_policy_scores_worse_than_ours(shape: str):
    events = arrivals(shape)
    bad = score(fixed(1_000, 60), PROFILE, shape, 0.5, events)
    assert score(OURS, PROFILE, shape, 0.5, events).goodput > bad.goodput + 0.2


def test_the_seed_reproduces_every_score():
    best = {profile.name: 200.0 for profile in batching.PROFILES}
    first = list(batching.measure(best, 0.2, [0.5]))
    assert first == list(batching.measure(best, 0.2, [0.5]))
    assert len(first) == len(batching.PROFILES) * len(SHAPES) * len(CONTENDERS)
    assert arrivals(seed=1) != arrivals(seed=2)


def test_a_lonely_event_pays_for_its_batch_and_for_a_linger():
    alone = PROFILE.seconds(1, 10)
    assert run(OURS, at(0.1)).answered_s == pytest.approx([0.1 + alone])
    assert run(fixed(64, 10), at(0.1)).answered_s == pytest.approx([0.11 + alone], abs=1e-5)


def test_a_batch_pays_for_its_longest_text_and_starts_after_the_one_before():
    events = [Arrival(0.0, 0.0, words, 0) for words in (10, 40, 10, 20)]
    assert run(fixed(2, 10), events).answered_s == pytest.approx([0.0018, 0.0018, 0.0032, 0.0032])


def test_a_fixed_size_is_released_when_full_or_when_the_first_has_lingered():
    policy = FixedSize(2, 0.010)
    assert policy.due_in(0.0, out=0) is policy.ready(0.0, out=0) is None
    policy.add([waiting(1)], now=1.0)
    assert policy.due_in(1.004, out=0) == pytest.approx(0.006)
    assert policy.ready(1.004, out=0) is None
    assert policy.ready(1.011, out=1) is Release.DUE
    policy.add([waiting(3, 1, first=1)], now=1.004)
    assert policy.ready(1.004, out=1) is Release.FULL
    batch = policy.take(1.004, Release.FULL)
    assert (offsets(batch.rows), batch.cost) == ([0, 1], 6)


def test_answers_are_released_behind_slower_ones_of_their_partition():
    events = at(0.0, 0.0) + at(0.0, partition=1) + at(0.0)
    assert in_order(events, [3.0, 1.0, 2.0, 4.0]) == [3.0, 3.0, 2.0, 4.0]


def test_goodput_counts_fresh_events_within_the_goal():
    events = [Arrival(-9.0, 0.0, 10, 0), *at(1.0, 1.0, 1.0, 2.0)]
    assert goodput(events, [0.01, 1.01, 1.05 - 1e-9, 1.06, 2.04]) == 0.75
    assert goodput(events[:1], [0.01]) == 0.0


def test_the_best_rate_is_that_of_full_batches_of_sorted_texts():
    profile = Profile("test", fixed_s=1.0, per_word_s=0.1, cost_max=6)
    # 1 1 3 would pad to 9 words: 1 1 | 3 3 | 4
    assert capacity(profile, [3, 1, 4, 1, 3]) == pytest.approx(5 / (1.2 + 1.6 + 1.4))


def test_no_contender_is_faster_than_the_best_rate():
    events = arrivals("backlog")
    best = capacity(PROFILE, [event.words for event in events])
    for contender in CONTENDERS[:2]:
        assert run(contender, events).busy_s >= 0.999 * len(events) / best


def test_bursts_keep_the_mean_rate():
    smooth, rough = (len(shape(Random(3), RATE, RATE, 10.0)) for shape in (steady, bursty))
    assert smooth == pytest.approx(10 * RATE, rel=0.03)
    assert rough == pytest.approx(10 * RATE, rel=0.03)


def test_texts_have_eight_to_forty_words_and_most_are_short():
    words = sorted(word_count(Random(seed)) for seed in range(2_000))
    assert (words[0], words[-1] <= 40) == (8, True)
    assert 10 <= words[1_000] <= 14


def test_a_verdict_names_wins_ties_losses_and_where_all_fail():
    goodputs = {0.2: (1.0, 0.995), 0.4: (0.9, 0.5), 0.6: (0.3, 0.5), 0.9: (0.09, 0.01)}
    scores = [
        Score("p", "steady", load, name, 10, value, value, 1.0, 1.0, None)
        for load, values in goodputs.items()
        for name, value in zip((OURS.name, "rival"), values, strict=True)
    ]
    expected = "wins at 40% (+40.0); ties at 20%; loses at 60% (-20.0); both fail at 90%"
    assert verdict(scores, ["rival"]) == expected


def test_the_plot_is_drawn_of_every_score(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the plot needs the bench group")
    from benchmarks import batching_plot

    assert {contender.name for contender in CONTENDERS} == set(batching_plot.LINES)
    scores = [
        score(contender, PROFILE, shape, 0.5, arrivals(shape))
        for shape in ("steady", "backlog")
        for contender in CONTENDERS
    ]
    batching_plot.draw(scores, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
