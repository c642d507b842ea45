import pytest

from streamer.errors import Internal
from streamer.ledger import Ledger
from streamer.records import Record, Skipped


def record(partition: int, offset: int, value: bytes = b"12345") -> Record:
    return Record("t", partition, offset, b"k", value, None, 0)


def offsets(items):
    return [(item.record.partition, item.record.offset) for item in items]


def test_releases_in_arrival_order_however_it_is_settled():
    ledger = Ledger()
    a, b, c = ledger.open([record(0, 4), record(0, 5), record(0, 9)])
    ledger.settle(c, Skipped())
    ledger.settle(b, Skipped())
    assert ledger.release() == []
    assert ledger.positions() == {}
    ledger.settle(a, Skipped())
    assert ledger.release() == [a, b, c]
    assert ledger.positions() == {0: 10}


def test_a_slow_partition_does_not_hold_another():
    ledger = Ledger()
    _, b = ledger.open([record(0, 0), record(1, 7)])
    ledger.settle(b, Skipped())
    assert offsets(ledger.release()) == [(1, 7)]
    assert ledger.positions() == {1: 8}


def test_positions_are_told_once():
    ledger = Ledger()
    (a,) = ledger.open([record(0, 0)])
    ledger.settle(a, Skipped())
    ledger.release()
    assert ledger.positions() == {0: 1}
    assert ledger.positions() == {}


def test_counts_records_and_bytes_in_flight():
    ledger = Ledger()
    a, _ = ledger.open([record(0, 0), record(1, 0)])
    assert (len(ledger), ledger.bytes) == (2, 12)
    ledger.settle(a, Skipped())
    ledger.release()
    assert (len(ledger), ledger.bytes) == (1, 6)
    ledger.forget([1])
    assert (len(ledger), ledger.bytes) == (0, 0)


def test_an_outcome_for_a_partition_that_was_given_up_has_no_effect():
    ledger = Ledger()
    (old,) = ledger.open([record(0, 0)])
    ledger.forget([0])
    (new,) = ledger.open([record(0, 0)])
    ledger.settle(old, Skipped())
    assert ledger.release() == []
    ledger.settle(new, Skipped())
    assert ledger.release() == [new]


def test_released_positions_of_a_given_up_partition_are_forgotten():
    ledger = Ledger()
    (a,) = ledger.open([record(0, 0)])
    ledger.settle(a, Skipped())
    ledger.release()
    ledger.forget([0])
    assert ledger.positions() == {}


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
