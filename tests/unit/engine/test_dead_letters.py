import pytest
import structlog

from streamer.engine.dead_letters import DeadLetterLimits
from streamer.errors import BadData, Reason
from streamer.records import Record, Rejected, Skipped
from streamer.slices import Rows, sliced

BROKEN, KEYLESS = Rejected(Reason.NOT_JSON, "line 1", "E"), Rejected(Reason.NO_KEY, "no key", "E")


def released(*outcomes, start=0) -> Rows:
    """What a partition releases; every record has a trace."""
    trace = [("traceparent", b"00-ab")]
    (columns,) = sliced(
        Record("t", 0, offset, b"k", b"the payload", trace, 0) for offset in range(start, start + len(outcomes))
    )
    for row, outcome in zip(columns.rows(), outcomes, strict=True):
        row.settle(outcome)
    return columns.rows()


def limits(ratio_max=1.0, run_max=1_000) -> DeadLetterLimits:
    return DeadLetterLimits(ratio_max, run_max)


def test_one_line_a_reason_names_the_first_record_and_no_payload():
    with structlog.testing.capture_logs() as lines:
        limits().observe(released(Skipped(), BROKEN, BROKEN, b"{}", BROKEN, KEYLESS, start=9))
    assert [(line["reason"], line["count"], line["offset"], line["trace_id"]) for line in lines] == [
        ("not-json", 3, 10, "00-ab"),
        ("no-key", 1, 14, "00-ab"),
    ]
    assert "payload" not in str(lines)


def test_without_dead_letters_nothing_is_said():
    with structlog.testing.capture_logs() as lines:
        limits().observe(released(Skipped(), b"{}"))
    assert lines == []


def test_a_run_counts_over_slices_and_ends_with_any_other_outcome():
    seen = limits(run_max=3)
    seen.observe(released(b"{}", BROKEN, BROKEN))
    seen.observe(released(BROKEN, b"{}", BROKEN, BROKEN))
    seen.observe(released(BROKEN))
    with pytest.raises(BadData, match="4 in a row"):
        seen.observe(released(BROKEN, b"{}"))


def test_the_share_is_of_what_the_partition_has_released_lately():
    seen = limits(ratio_max=0.5)
    seen.observe(released(*[b"{}"] * 60))
    seen.observe(released(*[BROKEN] * 60))
    with pytest.raises(BadData, match="50% lately"):
        seen.observe(released(*[BROKEN] * 3))


def test_old_records_count_less_and_less():
    seen = limits(ratio_max=0.5)
    for _ in range(20):
        seen.observe(released(*[b"{}"] * 1_000))
    with pytest.raises(BadData, match=r"5[01]% lately"):
        seen.observe(released(*[BROKEN] * 1_000))


def test_a_partition_that_comes_back_begins_anew():
    seen = limits(run_max=2)
    seen.observe(released(BROKEN, BROKEN))
    seen.forget([0])
    seen.observe(released(BROKEN, BROKEN))
