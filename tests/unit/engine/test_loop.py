import pytest

from streamer.engine.loop import Limits
from streamer.errors import BadData
from streamer.records import BatchPolicy
from streamer.testing import CRASH, LOSE, PAUSE, REVOKE, Bench, FakeCache, FakeFeatures, Fault, serve
from tests.echo import CachedEcho, Echo, ping


def doubles(answers):
    return [prediction.answer.double for prediction in answers.predictions]


def offsets(answers):
    return [prediction.source.offset for prediction in answers.predictions]


def test_every_event_gets_its_answer_in_order():
    answers = serve(Echo(), [ping(n) for n in range(20)])
    assert doubles(answers) == [2.0 * n for n in range(20)]
    assert offsets(answers) == list(range(20))
    assert [p.event_id for p in answers.predictions] == [f"e{n}" for n in range(20)]


def test_a_prediction_says_who_answered_what():
    (prediction,) = serve(Echo(), [ping(1)]).predictions
    assert prediction.prediction_id == "echo/test.pings.events.v1/0/0"
    assert (prediction.worker, prediction.model_version, prediction.cache) == ("echo", "0", "miss")


def test_lengths_are_batched_apart_and_published_in_order():
    script = [ping(n, length=64 if n % 2 else 4) for n in range(40)]
    worker = Echo()
    answers = serve(worker, script, Bench(seconds=lambda batch: 0.01 + 0.001 * batch.cost))
    assert offsets(answers) == list(range(40))
    assert any(len({n % 2 for n in run}) == 1 and len(run) > 1 for run in worker.runs)


@pytest.mark.parametrize("marker", [CRASH, REVOKE, LOSE, PAUSE])
def test_nothing_is_lost_or_repeated_across(marker):
    script = [ping(n) for n in range(30)]
    script[7:7] = [marker]
    script[21:21] = [marker]
    answers = serve(Echo(), script)
    assert offsets(answers) == list(range(30))


@pytest.mark.parametrize("fault", list(Fault))
def test_nothing_is_lost_or_repeated_when_a_commit(fault):
    answers = serve(Echo(), [ping(n) for n in range(50)], Bench(faults=(fault, Fault.NONE, fault)))
    assert offsets(answers) == list(range(50))


def test_a_rewritten_commit_needs_no_second_run():
    worker = Echo()
    serve(worker, [ping(n) for n in range(5)], Bench(faults=(Fault.ABORT, Fault.UNCLEAR_NOT_DONE, Fault.ABORT)))
    assert sorted(n for run in worker.runs for n in run) == [0, 1, 2, 3, 4]


def test_a_revoke_commits_what_is_in_flight_so_nothing_is_computed_twice():
    worker = Echo()
    serve(worker, [*(ping(n) for n in range(5)), REVOKE, ping(5)])
    assert sorted(n for run in worker.runs for n in run) == [0, 1, 2, 3, 4, 5]


def test_a_revoke_without_the_time_for_all_keeps_what_is_done():
    worker = Echo()
    bench = Bench(batch=BatchPolicy(items_max=1), seconds=lambda batch: 1.0)  # against five seconds for a revoke
    serve(worker, [*(ping(n) for n in range(12)), PAUSE, REVOKE, ping(12)], bench)
    assert len(worker.runs) <= 13 + 2  # at most those on their way to the device are computed again


def test_what_waits_for_a_lost_partition_is_not_computed():
    worker = Echo()
    script = [*(ping(n) for n in range(8)), LOSE, *(ping(n) for n in range(8, 12))]
    bench = Bench(batch=BatchPolicy(items_max=1), seconds=lambda batch: 10.0)
    serve(worker, script, bench)
    assert len(worker.runs) <= 2 + 12  # when the partition was lost one was running and one ready


def test_only_the_culprit_becomes_a_dead_letter():
    script = [ping(n, fault="raise" if n == 5 else "") for n in range(16)]
    answers = serve(Echo(), script, Bench(batch=BatchPolicy(items_max=16)))
    assert offsets(answers) == [n for n in range(16) if n != 5]
    (dead,) = answers.dead_letters
    assert (dead.source.offset, dead.reason, dead.error) == (5, "model-error", "ValueError")


def test_the_text_of_a_foreign_exception_is_not_published():
    (dead,) = serve(Echo(), [ping(0, fault="raise")]).dead_letters
    assert "secret" not in dead.message


def test_an_answer_that_is_not_finite_is_a_dead_letter():
    answers = serve(Echo(), [ping(0), ping(1, fault="nan"), ping(2)])
    assert offsets(answers) == [0, 2]
    assert [dead.reason for dead in answers.dead_letters] == ["not-finite"]


def test_a_record_that_cannot_be_read_is_a_dead_letter_and_the_next_is_served():
    answers = serve(Echo(), [b"{", ping(1), b'{"number": "1"}'])
    assert offsets(answers) == [1]
    assert [dead.reason for dead in answers.dead_letters] == ["not-json", "invalid"]


def test_what_the_worker_declines_is_counted():
    answers = serve(Echo(), [ping(0), ping(1, fault="skip"), ping(2)])
    assert offsets(answers) == [0, 2]
    assert answers.skipped == 1


def test_features_reach_the_model():
    bench = Bench(features=FakeFeatures({"known": {"bonus": 100.0}}))
    assert doubles(serve(Echo(), [ping(1, name="known"), ping(1, name="other")], bench)) == [102.0, 2.0]


def test_equal_events_are_computed_once():
    worker = CachedEcho()
    answers = serve(worker, [ping(7) for _ in range(10)])
    assert doubles(answers) == [14.0] * 10
    assert [p.cache for p in answers.predictions] == ["miss"] + ["hit"] * 9
    assert sum(len(run) for run in worker.runs) == 1


def test_what_was_committed_is_answered_from_the_cache():
    worker, cache = CachedEcho(), FakeCache()
    serve(worker, [ping(7)], Bench(cache=cache))
    answers = serve(worker, [ping(7)], Bench(cache=cache))
    assert doubles(answers) == [14.0]
    assert answers.predictions[0].cache == "hit"
    assert sum(len(run) for run in worker.runs) == 1


def test_the_cache_is_filled_only_after_a_commit():
    cache = FakeCache()
    seen = []

    class Watching(FakeCache):
        def put_many(self, answers):
            seen.append(len(answers))
            cache.put_many(answers)

    serve(CachedEcho(), [ping(7), CRASH, ping(8)], Bench(cache=Watching(), faults=(Fault.CRASH_BEFORE,)))
    assert sum(seen) == 2


def test_followers_of_a_failure_are_tried_by_themselves():
    answers = serve(CachedEcho(), [ping(1, fault="raise") for _ in range(3)])
    assert [dead.source.offset for dead in answers.dead_letters] == [0, 1, 2]


def test_an_equal_event_after_a_loss_is_still_answered():
    answers = serve(CachedEcho(), [ping(1), LOSE, ping(1), ping(1), REVOKE, ping(1)])
    assert offsets(answers) == [0, 1, 2, 3]


def test_a_run_of_dead_letters_stops_the_worker_before_they_are_published():
    with pytest.raises(BadData, match=r"11 in a row.*dead_letters\.run_max"):
        serve(Echo(), [b"x"] * 50, Bench(limits=Limits(dead_ratio_max=1.0, dead_run_max=10)))


def test_too_large_a_share_of_dead_letters_stops_the_worker():
    script = [b"x" if n % 3 == 0 else ping(n) for n in range(400)]
    with pytest.raises(BadData, match="lately"):
        serve(Echo(), script, Bench(limits=Limits(dead_ratio_max=0.2)))


def test_few_dead_letters_at_the_start_do_not_stop_it():
    script = [b"x"] * 20 + [ping(n) for n in range(200)]
    answers = serve(Echo(), script, Bench(limits=Limits(dead_ratio_max=0.2)))
    assert len(answers.dead_letters) == 20


def test_in_flight_is_bounded():
    widest = 0

    def watch(batch):
        nonlocal widest
        widest = max(widest, len(batch))
        return 1.0

    answers = serve(
        Echo(),
        [ping(n) for n in range(100)],
        Bench(limits=Limits(in_flight_max=5), batch=BatchPolicy(items_max=1000), seconds=watch),
    )
    assert len(answers.predictions) == 100
    assert widest <= 5


def test_reading_ahead_of_the_runner_is_bounded_by_its_time():
    read_at = {}

    class Watched(FakeCache):
        def get_many(self, keys):
            read_at[len(read_at)] = len(keys)
            return super().get_many(keys)

    done = []
    serve(
        CachedEcho(),
        [ping(n) for n in range(2000)],
        Bench(
            cache=Watched(),
            limits=Limits(poll_max=10, ahead_s=1.0, in_flight_max=100_000),
            batch=BatchPolicy(items_max=10),
            seconds=lambda batch: done.append(sum(read_at.values())) or 0.1,
        ),
    )
    ahead = max(read - 10 * batches for batches, read in enumerate(done))
    assert 100 <= ahead <= 150  # a second of work is a hundred events


def test_commits_gather_when_events_wait_for_the_model_longer_than_that_takes():
    commits = []

    class Counting(FakeCache):
        def put_many(self, answers):
            commits.append(len(answers))
            super().put_many(answers)

    bench = Bench(cache=Counting(), batch=BatchPolicy(items_max=1), seconds=lambda batch: 0.03)
    serve(CachedEcho(), [ping(n) for n in range(40)], bench)
    assert sum(commits) == 40
    assert len(commits) <= 15  # three or four answers in 100 ms; at once would be 40 commits
