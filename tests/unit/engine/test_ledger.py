import pytest

from streamer.engine.ledger import Ledger
from streamer.errors import Internal
from streamer.records import Record, Skipped


def record(partition: int, offset: int, value: bytes = b"12345") -> Record:
    return Record("t", partition, offset, b"k", value, None, 0)


def released(ledger: Ledger) -> list:
    return [item for run in ledger.release() for item in run.items]


def test_releases_in_arrival_order_however_it_is_settled():
    ledger = Ledger()
    a, b, c = ledger.open([record(0, 4), record(0, 5), record(0, 9)])
    ledger.settle(c, Skipped())
    ledger.settle(b, Skipped())
    assert ledger.release() == []
    ledger.settle(a, Skipped())
    (run,) = ledger.release()
    assert run.items == [a, b, c]
    assert (run.partition, run.position, run.size) == (0, 10, 18)
    assert ledger.release() == []


def test_a_slow_partition_does_not_hold_another():
    ledger = Ledger()
    _, b = ledger.open([record(0, 0), record(1, 7)])
    ledger.settle(b, Skipped())
    (run,) = ledger.release()
    assert (run.partition, run.items, run.position) == (1, [b], 8)


def test_partitions_that_alternate_keep_their_orders():
    ledger = Ledger()
    items = ledger.open([record(0, 0), record(1, 0), record(0, 1), record(1, 1)])
    ledger.settle_all(items, [Skipped()] * 4)
    assert [[item.record.offset for item in run.items] for run in ledger.release()] == [[0, 1], [0, 1]]


def test_counts_records_and_bytes_in_flight():
    ledger = Ledger()
    a, _ = ledger.open([record(0, 0), record(1, 0)])
    assert (len(ledger), ledger.bytes) == (2, 12)
    ledger.settle(a, Skipped())
    ledger.release()
    assert (len(ledger), ledger.bytes) == (1, 6)
    ledger.forget([1])
    assert (len(ledger), ledger.bytes) == (0, 0)


def test_bytes_of_what_was_read_together_count_until_the_last_of_it_is_released():
    ledger = Ledger()
    a, b = ledger.open([record(0, 0), record(0, 1)])
    (c,) = ledger.open([record(0, 2)])
    ledger.settle(a, Skipped())
    (run,) = ledger.release()
    assert (run.size, ledger.bytes) == (0, 18)
    ledger.settle_all([b, c], [Skipped()] * 2)
    (run,) = ledger.release()
    assert (run.size, ledger.bytes) == (18, 0)


def test_an_outcome_for_a_partition_that_was_given_up_has_no_effect():
    ledger = Ledger()
    (old,) = ledger.open([record(0, 0)])
    ledger.forget([0])
    (new,) = ledger.open([record(0, 0)])
    ledger.settle(old, Skipped())
    assert ledger.release() == []
    ledger.settle(new, Skipped())
    assert released(ledger) == [new]


def test_refuses_an_offset_that_does_not_grow():
    ledger = Ledger()
    ledger.open([record(0, 5)])
    with pytest.raises(Internal, match="growing offsets"):
        ledger.open([record(0, 5)])


def test_refuses_a_second_outcome():
    ledger = Ledger()
    (a,) = ledger.open([record(0, 0)])
    ledger.settle(a, Skipped())
    with pytest.raises(Internal, match="settled twice"):
        ledger.settle(a, Skipped())
    with pytest.raises(Internal, match="settled twice"):
        ledger.settle_all([a], [Skipped()])
