"""Records that kill the process: found out, answered as dead letters, and nobody else with them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamer.engine.attempts import FILE_BYTES, Attempts, FileStore, MemoryStore
from streamer.engine.loop import Limits
from streamer.errors import Exit, Reason
from streamer.models import Model
from streamer.records import BatchPolicy, Rejected
from streamer.telemetry.metrics import Metrics
from streamer.testing import CRASH, LOSE, PAUSE, REVOKE, Bench, Crash, FakeKafka, ManualClock, serve
from streamer.testing.serving import build
from tests.echo import CachedEcho, Echo, ping
from tests.slices import rows


def die(store, *batches, alone=False):
    """A life that ends with these batches on the device; the next one."""
    attempts = Attempts(store)
    for batch in batches:
        attempts.begin([batch], alone)
    return Attempts(store)


class Deadly(Echo):
    """An event whose fault is "kill" takes the process with it."""

    def __init__(self):
        super().__init__()
        self.deaths = 0

    def predict(self, tensors):
        if (tensors["numbers"] >= 1000).any():
            self.deaths += 1
            raise Crash
        return super().predict(tensors)


class DeadlyCached(Deadly, CachedEcho):
    pass


def outcome(answers):
    return (
        sorted(p.answer.double / 2 for p in answers.predictions),
        [(letter.reason, letter.source.offset) for letter in answers.dead_letters],
    )


@pytest.mark.parametrize("place", [0, 7, 29])
def test_a_record_that_kills_becomes_a_dead_letter_and_all_others_are_answered(place):
    script = [ping(n) for n in range(30)]
    script[place] = ping(1000)
    worker = Deadly()
    answers = serve(worker, script)
    assert outcome(answers) == ([float(n) for n in range(30) if n != place], [(Reason.CRASH, place)])
    assert [p.source.offset for p in answers.predictions] == [n for n in range(30) if n != place]
    assert worker.deaths == 4


def test_a_record_that_kills_becomes_a_dead_letter_where_nothing_else_is_read_with_it():
    assert outcome(serve(Deadly(), [ping(1000)])) == ([], [(Reason.CRASH, 0)])


def test_each_of_several_killers_is_found_out():
    script = [ping(1000 + n if n % 10 == 3 else n) for n in range(40)]
    worker = Deadly()
    answers = serve(worker, script)
    assert [offset for _, offset in outcome(answers)[1]] == [3, 13, 23, 33]
    assert len(answers.predictions) == 36


def test_equal_killers_that_wait_for_one_answer_are_found_out_too():
    script = [ping(1000 if n in (3, 4, 9) else n) for n in range(12)]
    answers = serve(DeadlyCached(), script)
    assert [offset for _, offset in outcome(answers)[1]] == [3, 4, 9]


@pytest.mark.parametrize("seed", range(20))
def test_deaths_that_are_nobodys_fault_cost_no_answer(seed):
    chance = random.Random(seed)
    script = [ping(n, length=chance.choice((1, 50))) for n in range(60)]
    for _ in range(12):
        script.insert(chance.randrange(len(script)), CRASH)
    assert outcome(serve(Echo(), script)) == ([float(n) for n in range(60)], [])


def test_two_deaths_with_a_record_on_the_device_let_it_run_alone_from_then_on():
    store = MemoryStore()
    die(store, rows(5, 6, 7, 8))
    attempts = die(store, rows(7, 8, 9), rows(20))
    assert [one.offset for one in attempts.suspects(rows(*range(30)))] == [7, 8]
    assert not attempts.condemned(rows(*range(30)))


def test_two_batches_at_one_death_count_as_one_death():
    """Batches cut by length interleave: spans of offsets instead of offsets found the wrong ones."""
    store = MemoryStore()
    assert not die(store, rows(0, 2, 4), rows(1, 3, 5)).suspects(rows(*range(6)))
    attempts = die(store, rows(1, 2, 7), rows(6, 8))
    assert [one.offset for one in attempts.suspects(rows(*range(9)))] == [1, 2]


def test_one_death_makes_no_suspect():
    assert die(MemoryStore(), rows(5, 6)).suspects(rows(5, 6)) == []


def test_deaths_elsewhere_do_not_add_up():
    store = MemoryStore()
    die(store, rows(5, 6))
    attempts = die(store, rows(7, 8), rows(5, 6, partition=1))
    assert attempts.suspects(rows(5, 6, 7, 8)) == []


def test_what_came_back_from_the_device_is_no_suspect():
    store = MemoryStore()
    for _ in range(3):
        attempts = Attempts(store)
        attempts.begin([rows(1, 2)], alone=False)
        attempts.begin([rows(3, 4)], alone=False)
        attempts.end()
    assert [one.offset for one in Attempts(store).suspects(rows(1, 2, 3, 4))] == [3, 4]


def test_an_end_for_another_reason_counts_for_nothing():
    store = MemoryStore()
    for _ in range(5):
        attempts = Attempts(store)
        attempts.begin([rows(1)], alone=True)
        attempts.clear()
    assert not Attempts(store).suspects(rows(1))


def test_what_is_answered_is_under_suspicion_no_more():
    store = MemoryStore()
    die(store, rows(5, 6, 7))
    attempts = die(store, rows(5, 6, 7))
    attempts.passed([rows(5, 6)])
    assert attempts.suspects(rows(7))
    attempts.passed([rows(7)])
    assert Attempts(store).suspects(rows(5, 6, 7)) == []


def test_what_another_replica_has_been_given_is_under_suspicion_no_more():
    store = MemoryStore()
    die(store, rows(5), rows(5, partition=1))
    attempts = die(store, rows(5), rows(5, partition=1))
    attempts.given_up([1, 2])
    for known in (attempts, Attempts(store)):
        assert [len(known.suspects(rows(5, partition=partition))) for partition in (0, 1)] == [1, 0]


def remembered(*script, seconds=0.001):
    """What is still known of a record of this partition that has killed three times, and was never read again."""
    store = MemoryStore()
    for _ in range(3):
        die(store, rows(500))
    bench = Bench(attempts=store, seconds=lambda batch: seconds, batch=BatchPolicy(items_max=1))
    serve(Echo(), script, bench)
    return [one.offset for one in Attempts(store).suspects(rows(500))]


def test_a_partition_that_is_given_up_with_all_its_answers_takes_its_deaths_along():
    assert remembered(ping(1), PAUSE, REVOKE, ping(2)) == []


@pytest.mark.parametrize("marker", [LOSE, CRASH, PAUSE])
def test_a_partition_that_is_lost_or_comes_back_after_a_death_keeps_them(marker):
    assert remembered(ping(1), PAUSE, marker, ping(2)) == [500]


def test_a_partition_that_is_given_up_with_records_half_done_keeps_its_deaths():
    """One of them may be what kills, or hangs."""
    assert remembered(*(ping(n) for n in range(12)), PAUSE, REVOKE, seconds=1.0) == [500]


def test_a_process_that_ends_by_itself_keeps_the_deaths_that_it_knows():
    """As one does whose device hangs: all is forgotten then, but nothing was answered."""
    store = MemoryStore()
    for _ in range(3):
        die(store, rows(500))
    worker, kafka, model = Echo(), FakeKafka([]), Model.none("echo")
    kafka.append(rows(1).columns.record(0))  # no event of this worker
    bench = Bench(attempts=store, limits=Limits(dead_run_max=0))
    metrics = Metrics(worker.name, model.version, CollectorRegistry())
    engine = build(worker, kafka, bench, clock=ManualClock(), faults=iter(()), metrics=metrics, model=model)
    with pytest.raises(Exit):
        engine.run()
    assert Attempts(store).suspects(rows(500))


def test_two_deaths_alone_condemn():
    store = MemoryStore()
    assert not die(store, rows(4), alone=True).condemned(rows(4))
    condemned = die(store, rows(4), alone=True).condemned(rows(3, 4, 5))
    assert [(one.offset, verdict.reason) for one, verdict in condemned] == [(4, Reason.CRASH)]
    assert isinstance(condemned[0][1], Rejected)


def test_marks_in_a_file_outlive_their_process(tmp_path):
    path = tmp_path / "marks"
    for _ in range(2):
        store = FileStore(path)
        Attempts(store).begin([rows(5)], alone=True)
        store._map.close()  # as the kernel does at a death
    assert Attempts(FileStore(path)).condemned(rows(5))
    assert path.stat().st_mode & 0o777 == 0o600


@given(st.binary(max_size=200), st.integers(0, 250))
def test_a_file_that_was_cut_short_or_is_junk_marks_nothing(content, at):
    store = MemoryStore()
    store.write(content)
    Attempts(store).suspects(rows(1))


def test_a_write_that_a_death_has_torn_is_not_believed(tmp_path):
    path = tmp_path / "marks"
    store = FileStore(path)
    store.write(b"whole")
    store._map.close()
    store = FileStore(path)
    assert store.read() == b"whole"
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"X")
    assert store.read() == b""


def test_a_file_that_another_process_has_is_left_alone(tmp_path):
    store = FileStore(tmp_path / "marks")
    with pytest.raises(BlockingIOError):
        FileStore(tmp_path / "marks")
    assert store.read() == b""


def test_a_death_of_the_owner_thread_is_not_the_devices():
    store = MemoryStore()
    die(store, rows(5, 6))
    for _ in range(3):
        attempts = Attempts(store)
        attempts.begin([rows(7)], alone=True)
        attempts.reading(True)
    assert Attempts(store).suspects(rows(5, 6, 7)) == []
    assert [one.offset for one in die(store, rows(5)).suspects(rows(5, 6))] == [5], "what was known is kept"


def test_a_full_or_forbidden_disk_shows_when_the_file_is_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileStore(tmp_path / "no such folder" / "marks")
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        FileStore(tmp_path / "link")


def test_more_marks_than_the_file_holds_are_left_out(tmp_path):
    store = FileStore(tmp_path / "marks")
    store.write(b"x" * (FILE_BYTES + 1))
    assert store.read() == b""
