import structlog

from streamer.engine import dead_letters
from streamer.errors import Reason
from streamer.records import Item, Lane, Record, Rejected, Skipped


def item(offset, outcome, headers=None):
    made = Item(Record("t", 0, offset, b"k", b"the payload", headers, 0), Lane(0))
    made.outcome = outcome
    return made


def test_one_line_a_reason_names_the_first_record_and_no_payload():
    broken = [item(n, Rejected(Reason.NOT_JSON, "line 1", "E"), [("traceparent", b"00-ab")]) for n in range(3)]
    with structlog.testing.capture_logs() as lines:
        dead_letters.log_reasons([item(9, Skipped()), *broken, item(5, Rejected(Reason.NO_KEY, "no key", "E"))])
    assert [(line["reason"], line["count"], line["offset"], line["trace_id"]) for line in lines] == [
        ("not-json", 3, 0, "00-ab"),
        ("no-key", 1, 5, None),
    ]
    assert "payload" not in str(lines)


def test_without_dead_letters_nothing_is_said():
    with structlog.testing.capture_logs() as lines:
        dead_letters.log_reasons([item(1, Skipped())])
    assert lines == []
