"""Windows against all events of their time, one by one."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.panes import DAY_S, PANES, SKETCH, SPANS, Entity, Window, Windows, hash_of

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Sale(NamedTuple):
    at_ms: int
    pieces: float | None
    article: str = ""


USUAL = ("1h", "1d", "7d", "28d")
WINDOWS = (
    Window("sales", "count", lambda sale: sale.pieces),
    Window("pieces", "sum", lambda sale: sale.pieces),
    Window("size", "mean", lambda sale: sale.pieces, ("1h", "28d")),
    Window("newest", "last", lambda sale: sale.pieces, ("1d",)),
    Window("articles", "distinct", lambda sale: sale.article),
)


def kept(sales: list[Sale]) -> tuple[Windows, Entity]:
    windows, entity = Windows(WINDOWS), Entity()
    for sale in sales:
        windows.add(entity, sale, sale.at_ms)
    return windows, entity


def one_by_one(sales: list[Sale], at_ms: int) -> dict[str, float]:
    """The same features, of the events themselves. Nothing may be too late."""
    found: dict[str, float] = {}
    for span in USUAL:
        seconds = SPANS[span]
        size_ms = 1000 * PANES[span]
        end = (at_ms // size_ms + 1) * size_ms
        seen = [sale for sale in sales if end - 1000 * seconds <= sale.at_ms < end]
        pieces = [sale for sale in seen if sale.pieces is not None]
        values = [sale.pieces for sale in pieces if sale.pieces is not None]
        found[f"sales_{span}"] = len(values)
        found[f"pieces_{span}"] = sum(values)
        found[f"articles_{span}"] = len({sale.article for sale in seen})
        if span in ("1h", "28d") and values:
            found[f"size_{span}"] = sum(values) / len(values)
        if span == "1d" and pieces:
            newest = max(pieces, key=lambda sale: sale.at_ms).at_ms
            found["newest_1d"] = [sale.pieces for sale in pieces if sale.at_ms == newest][-1]  # type: ignore[assignment]
    return found


sales = st.builds(
    Sale,
    st.integers(0, 40 * DAY_MS),
    st.one_of(st.none(), st.integers(-5, 50).map(float)),
    st.sampled_from("abcdefgh"),
)


@settings(deadline=None)
@given(events=st.lists(sales, max_size=60), later_ms=st.integers(0, 40 * DAY_MS))
def test_windows_are_what_the_events_of_their_time_are(events: list[Sale], later_ms: int) -> None:
    events.sort(key=lambda sale: sale.at_ms)
    at_ms = later_ms + (events[-1].at_ms if events else 0)
    windows, entity = kept(events)
    assert windows.at(entity, at_ms) == pytest.approx(one_by_one(events, at_ms))


@settings(deadline=None)
@given(events=st.lists(sales, max_size=40), jumble=st.randoms(use_true_random=False))
def test_what_comes_late_within_a_day_counts_as_if_it_had_come_in_time(events: list[Sale], jumble: object) -> None:
    """Within a day: so that spans of a day and more miss nothing of it at the end."""
    events = [sale._replace(at_ms=sale.at_ms % DAY_MS) for sale in events]
    shuffled = list(events)
    jumble.shuffle(shuffled)  # type: ignore[attr-defined]
    at_ms = max((sale.at_ms for sale in events), default=0)
    found = [windows.at(entity, at_ms) for windows, entity in (kept(events), kept(shuffled))]
    for name in ("sales_7d", "pieces_28d", "articles_1d", "size_28d"):
        assert found[0].get(name) == pytest.approx(found[1].get(name))


def test_spans_move_with_the_clock_though_nothing_is_written() -> None:
    windows, entity = kept([Sale(10 * DAY_MS, 3.0, "a")])
    seen = [windows.at(entity, 10 * DAY_MS + hours * HOUR_MS)["pieces_1d"] for hours in (0, 23, 24, 48)]
    assert seen == [3, 3, 0, 0]


def test_what_is_too_late_for_every_span_changes_nothing_and_is_told() -> None:
    windows, entity = kept([Sale(100 * DAY_MS, 1.0, "a")])
    before = windows.at(entity, 100 * DAY_MS)
    assert not windows.add(entity, Sale(72 * DAY_MS, 9.0, "b"), 72 * DAY_MS)
    assert windows.at(entity, 100 * DAY_MS) == before
    assert windows.add(entity, Sale(73 * DAY_MS, 9.0, "b"), 73 * DAY_MS), "28 days with today's"
    assert windows.at(entity, 100 * DAY_MS)["pieces_28d"] == 10


def test_what_is_kept_does_not_grow_with_time_or_events() -> None:
    windows, entity = Windows(WINDOWS), Entity()
    for hour in range(24 * 90):
        windows.add(entity, Sale(hour * HOUR_MS, 1.0, str(hour)), hour * HOUR_MS)
    assert {size: len(panes) for size, panes in entity.panes.items()} == {300: 1, 3600: 24, DAY_S: 28}
    assert max(len(aggregates[-1]) for aggregates in entity.panes[DAY_S].values()) <= SKETCH


def test_many_different_values_are_counted_within_what_the_sketch_promises() -> None:
    off = []
    for name in range(40):
        windows, entity = kept([Sale(0, 1.0, f"{name}/{number}") for number in range(2_000)])
        off.append(windows.at(entity, 0)["articles_1d"] / 2_000 - 1)
    assert sum(abs(one) < 1 / 62**0.5 for one in off) >= 0.55 * len(off)
    assert abs(sum(off) / len(off)) < 0.06


def test_a_hash_is_the_same_in_every_process() -> None:
    assert hash_of("85123A") == 6808546935287532693
    assert hash_of("\ud800") < 2**63


def test_a_span_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no span 2h"):
        Window("sales", "count", lambda sale: 1, ("2h", "1d"))


def test_a_year_is_kept_in_panes_of_four_weeks() -> None:
    windows, entity = Windows([Window("sales", "count", lambda sale: 1, ("364d",))]), Entity()
    for day in range(728):
        windows.add(entity, Sale(day * DAY_MS, 1.0), day * DAY_MS)
    assert windows.at(entity, 727 * DAY_MS) == {"sales_364d": 364}
    assert len(entity.panes[28 * DAY_S]) == 13


def test_an_event_may_have_several_values_that_differ() -> None:
    windows, entity = Windows([Window("articles", "distinct", lambda sale: sale.article.split(), ("1d",))]), Entity()
    windows.add(entity, Sale(0, None, "a b"), 0)
    windows.add(entity, Sale(0, None, "b c"), 0)
    assert windows.at(entity, 0) == {"articles_1d": 3}
