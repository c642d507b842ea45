import pytest

from streamer.engine.batcher import Batcher, CostModel, Release
from streamer.records import BatchPolicy
from streamer.slices import Rows
from tests.slices import offsets, rows


def item(cost: int = 1, due: float | None = None, offset: int = 0) -> Rows:
    made = rows(offset)
    made.columns.costs, made.columns.due = [cost], [due]
    return made


def batcher(fixed_s: float = 0.0, per_cost_s: float = 0.0, **policy) -> Batcher:
    costs = CostModel()
    costs.fixed_s, costs.per_cost_s = fixed_s, per_cost_s
    return Batcher(BatchPolicy(**policy), costs)


def test_an_idle_runner_takes_a_single_event_at_once():
    waiting = batcher()
    waiting.add([item()], now=0.0)
    assert waiting.ready(0.0, out=0) is Release.IDLE


def test_behind_a_running_batch_events_gather_until_a_batch_is_full():
    waiting = batcher(items_max=3)
    waiting.add([item(), item()], now=0.0)
    assert waiting.ready(0.0, out=1) is None
    assert waiting.due_in(0.0, out=1) is None
    waiting.add([item()], now=1.0)
    assert waiting.ready(1.0, out=1) is Release.FULL


def test_it_tells_how_long_the_oldest_item_has_waited():
    waiting = batcher()
    assert waiting.waited_s(5.0) == 0.0
    waiting.add([item(cost=60)], now=1.0)
    waiting.add([item()], now=2.0)
    assert waiting.waited_s(5.0) == 4.0


def test_nothing_waits_nothing_is_ready():
    waiting = batcher()
    assert waiting.ready(0.0, out=0) is None
    assert waiting.due_in(0.0, out=0) is None


def test_linger_counts_from_the_first_event():
    waiting = batcher(linger_s=0.010)
    waiting.add([item()], now=1.000)
    waiting.add([item()], now=1.008)
    assert waiting.ready(1.008, out=0) is None
    assert waiting.due_in(1.008, out=0) == pytest.approx(0.002)
    assert waiting.ready(1.0101, out=0) is Release.DUE


def test_a_goal_ends_the_linger_early_by_the_time_the_batch_takes():
    waiting = batcher(fixed_s=0.004, per_cost_s=0.001, linger_s=1.0)
    waiting.add([item(due=0.050)], now=0.0)
    assert waiting.due_in(0.0, out=0) == pytest.approx(0.045)
    assert waiting.ready(0.044, out=0) is None
    assert waiting.ready(0.0451, out=0) is Release.DUE


def test_behind_a_running_batch_only_a_full_one_is_released_even_if_it_is_due():
    waiting = batcher(fixed_s=0.004, items_max=2)
    waiting.add([item(due=0.050)], now=0.0)
    assert waiting.ready(0.060, out=1) is None
    assert waiting.due_in(0.060, out=1) is None
    waiting.add([item(due=0.050)], now=0.060)
    assert waiting.ready(0.060, out=1) is Release.FULL


def test_a_goal_ends_the_linger_of_an_idle_runner():
    waiting = batcher(fixed_s=0.004, items_max=100, linger_s=1.0)
    waiting.add([item(due=0.050)], now=0.0)
    assert waiting.ready(0.040, out=0) is None
    assert waiting.ready(0.047, out=0) is Release.DUE


def test_a_backlog_has_no_due_time_and_fills_whole_batches():
    waiting = batcher(per_cost_s=0.010, items_max=8)
    waiting.add([item(due=None) for _ in range(20)], now=0.0)
    assert len(waiting.take(0.0, Release.FULL)) == 8


def test_a_fresh_event_gets_a_batch_no_larger_than_its_goal_allows():
    waiting = batcher(per_cost_s=0.010, items_max=8)
    waiting.add([item(due=0.050) for _ in range(20)], now=0.0)
    assert len(waiting.take(0.0, Release.FULL)) == 5


def test_a_cost_budget_bounds_padded_cost_not_items():
    waiting = batcher(cost_max=64, items_max=100)
    waiting.add([item(cost=15) for _ in range(10)], now=0.0)
    batch = waiting.take(0.0, Release.FULL)
    assert (len(batch), batch.cost) == (4, 64)


def test_an_event_beyond_the_budget_flies_alone():
    waiting = batcher(cost_max=64)
    waiting.add([item(cost=5000), item(cost=5000)], now=0.0)
    batch = waiting.take(0.0, Release.FULL)
    assert (len(batch), batch.cost) == (1, 5000)


def test_lengths_are_not_mixed_when_padding_costs_more_than_a_batch():
    waiting = batcher(fixed_s=0.001, per_cost_s=0.001)
    long, short = item(cost=64), item(cost=4)
    waiting.add([long, short], now=0.0)
    assert waiting.take(0.0, Release.IDLE).rows == [long]
    assert waiting.take(0.0, Release.IDLE).rows == [short]


def test_lengths_are_mixed_when_a_batch_of_their_own_costs_more():
    waiting = batcher(fixed_s=1.0, per_cost_s=0.001)
    long, short = item(cost=64), item(cost=4)
    waiting.add([long, short], now=0.0)
    batch = waiting.take(0.0, Release.IDLE)
    assert sorted(map(id, batch.rows)) == sorted(map(id, (long, short)))
    assert batch.cost == 128


def test_the_oldest_is_passed_over_only_so_often():
    waiting = batcher(items_max=2, per_cost_s=1.0)
    lonely = item(cost=64)
    waiting.add([lonely], now=0.0)
    taken = []
    for turn in range(Batcher.PASSED_OVER_MAX + 1):
        waiting.add([item(cost=4), item(cost=4)], now=float(turn + 1))
        assert waiting.ready(float(turn), out=1) is Release.FULL
        taken.append(lonely in waiting.take(float(turn), Release.FULL).rows)
    assert taken == [False] * Batcher.PASSED_OVER_MAX + [True]


def test_drain_releases_whatever_waits_until_refill():
    waiting = batcher(linger_s=100.0)
    waiting.add([item()], now=0.0)
    assert waiting.ready(0.0, out=1) is None
    waiting.drain()
    assert waiting.ready(0.0, out=1) is Release.DRAIN
    waiting.refill()
    assert waiting.ready(0.0, out=1) is None


def test_a_batch_says_how_long_its_first_item_waited():
    waiting = batcher()
    waiting.add([item()], now=1.0)
    waiting.add([item()], now=3.0)
    assert waiting.take(4.0, Release.IDLE).waited_s == 3.0


def test_costs_are_learned_as_a_plus_b_times_cost():
    costs = CostModel()
    for cost in (1, 10, 40, 100, 7, 3):
        costs.observe(items=1, cost=cost, seconds=0.005 + 0.0002 * cost)
    assert costs.fixed_s == pytest.approx(0.005)
    assert costs.per_cost_s == pytest.approx(0.0002)
    assert costs.seconds(50) == pytest.approx(0.015)


def test_costs_follow_a_machine_that_slows_down():
    costs = CostModel()
    for _ in range(300):
        costs.observe(1, 10, 0.010)
        costs.observe(1, 100, 0.100)
    for _ in range(300):
        costs.observe(1, 10, 0.020)
        costs.observe(1, 100, 0.200)
    assert costs.seconds(100) == pytest.approx(0.200, rel=0.01)


def test_before_the_first_batch_time_is_unknown_and_zero():
    assert CostModel().seconds(1000) == 0.0


def test_records_that_were_read_together_are_cut_where_a_batch_is_full():
    waiting = batcher(items_max=4)
    waiting.add([rows(*range(10))], now=0.0)
    batches = [waiting.take(0.0, Release.FULL) for _ in range(3)]
    assert [offsets(batch.rows) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch.cost for batch in batches] == [4, 4, 2]
    assert len(waiting) == 0


def test_a_batch_takes_the_oldest_of_several_slices():
    waiting = batcher(items_max=3)
    waiting.add([rows(0, 1), rows(5, partition=1)], now=0.0)
    waiting.add([rows(2)], now=1.0)
    assert [offsets(waiting.take(2.0, Release.FULL).rows) for _ in range(2)] == [[0, 1, 5], [2]]


def test_records_of_a_slice_wait_by_their_lengths():
    waiting = batcher(fixed_s=0.001, per_cost_s=0.001, items_max=2)
    mixed = rows(0, 1, 2, 3, 4)
    mixed.columns.costs = [64, 4, 64, 4, 4]
    waiting.add([mixed], now=0.0)
    batches = [waiting.take(0.0, Release.FULL) for _ in range(3)]
    assert [offsets(batch.rows) for batch in batches] == [[0, 2], [1, 3], [4]]
    assert [batch.cost for batch in batches] == [128, 8, 4]
