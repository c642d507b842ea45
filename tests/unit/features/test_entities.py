"""What is kept of an entity: every event once, and the same features for the stream, a worker and a backfill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.features.entities import BYTES_MAX, DAYS, IDS_MAX, AsOf, Entities, Kept, Verdict, decode, encode
from streamer.panes import Window, time_of
from tests.echo import Ping

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOWS = (
    Window("pings", "count", lambda ping: 1, ("1h", "7d")),
    Window("total", "sum", lambda ping: ping.number, ("1d",)),
    Window("names", "distinct", lambda ping: ping.fault, ("28d",)),
)


def ping(event_id: str, hours: float = 0.0, number: int = 1) -> Ping:
    return Ping(event_id=event_id, occurred_at=START + timedelta(hours=hours), number=number)


def kept(*pings: Ping) -> Kept:
    entities, found = Entities(WINDOWS), Kept()
    for offset, one in enumerate(pings):
        entities.take(found, one, offset)
    return found


def features(found: Kept, hours: float) -> dict[str, float]:
    asked = ping("asked", hours, number=0)
    return dict(Entities(WINDOWS).known(decode(encode(found)), asked, found.offset + 1)[0])


def test_a_record_that_is_read_again_counts_once() -> None:
    entities, found = Entities(WINDOWS), Kept()
    assert [entities.take(found, ping("a"), offset) for offset in (4, 4, 3)] == [
        Verdict.TAKEN,
        Verdict.KNOWN,
        Verdict.KNOWN,
    ]
    assert found == kept() or found.offset == 4
    assert features(found, 0)["pings_1h"] == 2, "it, and the one that is asked for"


def test_an_event_that_is_sent_again_counts_once() -> None:
    entities, found = Entities(WINDOWS), Kept()
    verdicts = [entities.take(found, one, offset) for offset, one in enumerate([ping("a"), ping("b"), ping("a")])]
    assert verdicts == [Verdict.TAKEN, Verdict.TAKEN, Verdict.REPEATED]
    assert found.offset == 2
    assert features(found, 0)["total_1d"] == 2


def test_an_event_that_is_too_late_counts_nowhere_and_one_that_is_late_for_some_spans_counts_in_the_others() -> None:
    entities, found = Entities(WINDOWS), kept(ping("now", 24 * 60))
    assert entities.take(found, ping("old"), 1) is Verdict.LATE
    assert entities.take(found, ping("yesterday", 24 * 59 - 12), 2) is Verdict.TAKEN
    assert features(found, 24 * 60) == {"pings_1h": 2, "pings_7d": 3, "total_1d": 1, "names_28d": 1}


def test_the_event_itself_is_among_its_features_whether_the_windows_have_it_or_not() -> None:
    entities = Entities(WINDOWS)
    before, event = kept(ping("a"), ping("b", 1)), ping("c", 2, number=5)
    behind, as_of = entities.known(decode(encode(before)), event, 2)
    assert as_of == AsOf(1, time_of(ping("b", 1)))
    entities.take(before, event, 2)
    level, now = entities.known(before, event, 2)
    assert level == behind
    assert level["total_1d"] == 7
    assert now == AsOf(2, time_of(event))


def test_nothing_is_known_of_who_is_new_but_the_event() -> None:
    found, as_of = Entities(WINDOWS).known(Kept(), ping("a", number=3), 9)
    assert found == {"pings_1h": 1, "pings_7d": 1, "total_1d": 3, "names_28d": 1}
    assert as_of == AsOf(-1, -1)


def test_ids_are_forgotten_after_days_and_never_pile_up() -> None:
    entities, found = Entities(WINDOWS), Kept()
    entities.take(found, ping("first"), 0)
    entities.take(found, ping("later", 24 * DAYS), 1)
    assert len(found.seen) == 1
    for offset in range(2 * IDS_MAX):
        entities.take(found, ping(f"many-{offset}", 24 * DAYS + offset / 50), offset + 2)
    assert sum(map(len, found.seen.values())) == IDS_MAX
    assert (
        entities.take(found, ping(f"many-{2 * IDS_MAX - 1}", 24 * DAYS + (2 * IDS_MAX - 1) / 50), 9_999)
        is Verdict.REPEATED
    )


def test_what_fails_on_an_event_changes_nothing() -> None:
    windows = (WINDOWS[0], Window("bad", "sum", lambda ping: 1 / ping.number, ("1d",)))
    entities, found = Entities(windows), Kept()
    entities.take(found, ping("a"), 0)
    before = encode(found)
    with pytest.raises(ZeroDivisionError):
        entities.take(found, ping("b", number=0), 1)
    assert encode(found) == before


def test_declarations_have_a_version() -> None:
    assert Entities(WINDOWS).version == Entities(list(WINDOWS)).version
    assert len({Entities(windows).version for windows in (WINDOWS, WINDOWS[:2], WINDOWS[::-1])}) == 3


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x93\x01", msgspec.msgpack.encode({"offset": 1}), b"0" * BYTES_MAX * 2]
)
def test_what_we_did_not_write_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of msgspec, or ours
        decode(data)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 24 * 40), st.integers(0, 5)), max_size=40),
    st.data(),
)
def test_a_crash_anywhere_changes_nothing(script: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """State is saved now and then, and after a crash read from there, the records again from an earlier position."""
    pings = [ping(f"e{name}", hours, number) for name, hours, number in script]
    entities, found, saved = Entities(WINDOWS), Kept(), encode(Kept())
    for offset, one in enumerate(pings):
        entities.take(found, one, offset)
        if data.draw(st.booleans()):
            saved = encode(found)
        if data.draw(st.booleans()):
            found = decode(saved)
            again = data.draw(st.integers(0, found.offset + 1))
            for number in range(again, offset + 1):
                entities.take(found, pings[number], number)
    assert encode(found) == encode(decode(encode(kept(*pings))))
