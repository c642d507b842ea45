import pytest

from streamer.engine.ledger import Ledger
from streamer.errors import Internal, Reason
from streamer.records import Record, Rejected, Skipped
from streamer.slices import Batch, BatchResult, sliced
from tests.slices import offsets


def record(partition: int, offset: int, value: bytes = b"12345") -> Record:
    return Record("t", partition, offset, b"k", value, None, 0)


def opened(ledger: Ledger, *records: Record) -> list:
    return [row for rows in ledger.open(sliced(records)) for row in rows]


def test_releases_in_arrival_order_however_it_is_settled():
    ledger = Ledger()
    a, b, c = opened(ledger, record(0, 4), record(0, 5), record(0, 9))
    c.settle(Skipped())
    b.settle(b"{}")
    assert ledger.release() == []
    a.settle(Skipped())
    (rows,) = ledger.release()
    assert list(rows) == [a, b, c]
    assert (rows.columns.partition, rows.position, rows.size) == (0, 10, 18)
    assert ledger.release() == []


def test_a_slow_partition_does_not_hold_another():
    ledger = Ledger()
    _, b = opened(ledger, record(0, 0), record(1, 7))
    b.settle(Skipped())
    (rows,) = ledger.release()
    assert (rows.columns.partition, list(rows), rows.position) == (1, [b], 8)


def test_partitions_that_alternate_keep_their_orders():
    ledger = Ledger()
    for row in opened(ledger, record(0, 0), record(1, 0), record(0, 1), record(1, 1)):
        row.settle(Skipped())
    assert [offsets([rows]) for rows in ledger.release()] == [[0, 1], [0, 1]]


def test_slices_of_a_partition_are_released_one_after_the_other_and_the_last_in_part():
    ledger = Ledger()
    first = opened(ledger, record(0, 0), record(0, 1))
    second = opened(ledger, record(0, 2), record(0, 3))
    for row in [*first, second[0]]:
        row.settle(b"{}")
    assert [offsets([rows]) for rows in ledger.release()] == [[0, 1], [2]]
    second[1].settle(b"{}")
    assert [offsets([rows]) for rows in ledger.release()] == [[3]]


def test_counts_records_and_bytes_in_flight():
    ledger = Ledger()
    a, _ = opened(ledger, record(0, 0), record(1, 0))
    assert (len(ledger), ledger.bytes) == (2, 12)
    a.settle(Skipped())
    ledger.release()
    assert (len(ledger), ledger.bytes) == (1, 6)
    ledger.forget([1])
    assert (len(ledger), ledger.bytes) == (0, 0)


def test_bytes_of_a_slice_count_until_the_last_of_it_is_released():
    ledger = Ledger()
    a, b = opened(ledger, record(0, 0), record(0, 1))
    (c,) = opened(ledger, record(0, 2))
    a.settle(Skipped())
    (rows,) = ledger.release()
    assert (rows.size, ledger.bytes, len(ledger)) == (0, 18, 2)
    b.settle(Skipped())
    c.settle(Skipped())
    assert [rows.size for rows in ledger.release()] == [12, 6]
    assert (ledger.bytes, len(ledger)) == (0, 0)


def test_a_partition_that_is_given_up_half_released_counts_no_more():
    ledger = Ledger()
    a, _ = opened(ledger, record(0, 0), record(0, 1))
    a.settle(Skipped())
    ledger.release()
    ledger.forget([0])
    assert (len(ledger), ledger.bytes) == (0, 0)


def test_an_outcome_for_a_partition_that_was_given_up_has_no_effect():
    ledger = Ledger()
    (old,) = opened(ledger, record(0, 0))
    ledger.forget([0])
    assert old.columns.gone
    (new,) = opened(ledger, record(0, 0))
    old.settle(Skipped())
    assert ledger.release() == []
    new.settle(Skipped())
    assert [list(rows) for rows in ledger.release()] == [[new]]


@pytest.mark.parametrize("offsets", [[5], [6, 6], [7, 6], [6, 8, 7]])
def test_refuses_an_offset_that_does_not_grow(offsets):
    ledger = Ledger()
    opened(ledger, record(0, 5))
    with pytest.raises(Internal, match="growing offsets"):
        opened(ledger, *(record(0, offset) for offset in offsets))


def test_refuses_a_second_outcome():
    ledger = Ledger()
    (rows,) = ledger.open(sliced([record(0, 0), record(0, 1)]))
    a, _ = rows
    a.settle(Skipped())
    with pytest.raises(Internal, match="offset 0 of partition 0 was settled twice"):
        a.settle(b"{}")
    with pytest.raises(Internal, match="settled twice"):
        rows.settle([b"{}", b"{}"])


@pytest.mark.parametrize("answers", [[b"1"], [b"1"] * 3])
def test_refuses_more_or_fewer_outcomes_than_records(answers):
    ledger = Ledger()
    (rows,) = ledger.open(sliced(record(0, offset) for offset in range(2)))
    with pytest.raises(Internal, match="for 2 records"):
        rows.settle(answers)
    with pytest.raises(Internal, match="for 2 records"):
        list(BatchResult(Batch([rows], "full", 2, 0.0), answers, 0.0).parts())
    assert rows.columns.answers == [None, None]


def test_a_batch_settles_answers_and_rejections_in_their_places():
    ledger = Ledger()
    (rows,) = ledger.open(sliced(record(0, offset) for offset in range(3)))
    rejected = Rejected(Reason.MODEL_ERROR, "m", "E")
    rows.settle([b"1", rejected, b"3"])
    assert [row.outcome for row in rows] == [b"1", rejected, b"3"]
    assert rows.rare() == {1: rejected}
    assert len(rows.open()) == 0
