"""Days that are over: each told once, when all partitions have come past it, and the same after every restart."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar

import pytest

from schemas import ArticleDayEvent, Event, InvoiceEvent, InvoiceLine
from schemas.sales import HISTORY_DAYS
from streamer.days import Calendar, Days, Verdict, date_of, day_of, end_of, number_of
from streamer.panes import AHEAD_MS, time_of
from streamer.records import Record
from streamer.testing import ManualClock
from tests.data import FOLDER
from workers.purchase_propensity import history as invoices
from workers.sales_forecast import history as articles
from workers.sales_forecast.days import DAYS
from workers.sales_forecast.worker import SalesForecast

PARTITIONS = 3
CLOCK = ManualClock()
CLOCK.sleep(400 * 86_400)
START = datetime(2026, 3, 1, tzinfo=UTC)
FIRST = number_of(START.date())


class Sale(Event):
    topic: ClassVar[str] = "test.sales"
    what: str
    amount: int


class Day(Event):
    topic: ClassVar[str] = "test.days"
    what: str
    day: date
    amounts: tuple[int, ...]

    @property
    def key(self) -> str:
        return self.what


def told(what: str, day: date, amounts: Sequence[int]) -> Day:
    return Day(event_id=f"{what}/{day}", occurred_at=end_of(day), what=what, day=day, amounts=tuple(amounts))


def amounts(sale: Sale) -> Iterator[tuple[str, int]]:
    if sale.what == "broken":
        raise ValueError("the declaration's own code")
    yield sale.what, sale.amount


FOUR = Days(Sale, amounts, told, lambda day: day.amounts, 4)


def sale(hours: float, what: str = "a", amount: int = 1, event_id: str | None = None) -> Sale:
    return Sale(
        event_id=event_id or f"{what}{hours}", occurred_at=START + timedelta(hours=hours), what=what, amount=amount
    )


def record(partition: int = 0, offset: int = 0, at_ms: int = 0) -> Record:
    return Record(Sale.topic, partition, offset, b"k", b"", None, at_ms)


def closed(calendar: Calendar, idle: frozenset[int] = frozenset()) -> list[tuple[str, str, tuple[int, ...]]]:
    """What is told now."""
    found = []
    for day in calendar.over(idle):
        for event in calendar.tell(day):
            assert isinstance(event, Day)
            found.append((event.what, str(event.day)[5:], event.amounts))
        calendar.close(day)
    return found


def test_a_day_is_over_an_hour_after_its_end() -> None:
    calendar = Calendar(FOUR, [0], CLOCK)
    calendar.take(record(), sale(5, amount=2))
    calendar.take(record(), sale(6, amount=3))
    calendar.take(record(), sale(24.99))
    assert closed(calendar) == []
    calendar.take(record(), sale(25))
    assert closed(calendar) == [("a", "03-01", (0, 0, 0, 5))]
    assert closed(calendar) == [], "once"


def test_the_last_partition_ends_the_day_unless_it_is_idle() -> None:
    calendar = Calendar(FOUR, [0, 1], CLOCK)
    calendar.take(record(0), sale(5))
    calendar.take(record(0), sale(30))
    assert closed(calendar) == [], "partition 1 may yet bring what happened then"
    calendar.take(record(1), sale(6, amount=10))
    assert closed(calendar) == []
    assert closed(calendar, frozenset({1})) == [("a", "03-01", (0, 0, 0, 11))]
    calendar.take(record(0), sale(60))
    assert closed(calendar) == []
    assert closed(calendar, frozenset({0, 1})) == [("a", "03-02", (0, 0, 11, 1))], "all that there is has been read"


def test_every_day_is_told_also_one_on_which_nothing_happened() -> None:
    calendar = Calendar(FOUR, [0], CLOCK)
    calendar.take(record(), sale(0, amount=7))
    calendar.take(record(), sale(24 * 6, "b"))
    assert closed(calendar) == [
        ("a", "03-01", (0, 0, 0, 7)),
        ("a", "03-02", (0, 0, 7, 0)),
        ("a", "03-03", (0, 7, 0, 0)),
        ("a", "03-04", (7, 0, 0, 0)),
    ], "and after four days there is nothing to tell of it"


def test_what_came_of_an_event() -> None:
    calendar = Calendar(FOUR, [0], CLOCK)
    written = time_of(sale(2))
    assert calendar.take(record(at_ms=written), sale(1)) is Verdict.TAKEN
    assert calendar.take(record(), sale(1)) is Verdict.REPEATED
    assert calendar.take(record(at_ms=written), sale(2 + AHEAD_MS / 3_600_000)) is Verdict.TAKEN
    assert calendar.take(record(at_ms=written), sale(26.01)) is Verdict.FUTURE
    assert calendar.take(record(at_ms=written), sale(100_000)) is Verdict.FUTURE
    ahead = sale(24 * 1_000)
    assert calendar.take(record(at_ms=time_of(ahead)), ahead) is Verdict.FUTURE, "its producer's clock is wrong too"
    assert closed(calendar) == [("a", "03-01", (0, 0, 0, 1))], "what cannot be true ends no day"
    assert calendar.take(record(), sale(3)) is Verdict.LATE


def test_what_the_declaration_fails_on_changes_nothing() -> None:
    calendar = Calendar(FOUR, [0], CLOCK)
    with pytest.raises(ValueError, match="own code"):
        calendar.take(record(), sale(30, "broken"))
    assert calendar.after(0, {0: 9}) == {0: 9}
    assert closed(calendar) == []


def test_a_day_is_not_over_before_it_is_over_here() -> None:
    clock = ManualClock()
    clock.sleep((START - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds() + 20 * 3600)
    calendar = Calendar(FOUR, [0], clock)
    calendar.take(record(), sale(5))
    assert calendar.take(record(), sale(26)) is Verdict.TAKEN, "by a clock that is a few hours fast"
    assert closed(calendar) == []
    clock.sleep(5 * 3600)
    assert closed(calendar) == [("a", "03-01", (0, 0, 0, 1))]


def test_one_entity_that_cannot_be_told_keeps_nobody_else_from_it() -> None:
    big = InvoiceLine(article="85123A", pieces=10**9, price=1.0)
    long = InvoiceLine(article="1" * 5 + "A" * 123, pieces=1, price=1.0)
    fine = InvoiceLine(article="22423", pieces=1, price=1.0)
    calendar = Calendar(DAYS, [0], CLOCK)
    for number, day in ((1, 0), (2, 0), (3, 2)):
        at, name = START + timedelta(days=day), str(number)
        lines = (big, long, fine)
        calendar.take(record(), InvoiceEvent(event_id=name, occurred_at=at, invoice_id=name, lines=lines))
    day = next(calendar.over(frozenset()))
    assert [event.key for event in calendar.tell(day)] == ["22423"]


def test_an_event_of_1970_stops_nothing() -> None:
    calendar = Calendar(FOUR, [0], CLOCK)
    calendar.take(record(), sale(-(START.timestamp()) / 3600, "old"))
    calendar.take(record(), sale(1))
    assert [one for one in closed(calendar) if one[0] == "a"] == []
    calendar.take(record(), sale(26))
    assert closed(calendar) == [("a", "03-01", (0, 0, 0, 1))]


def sales(seed: int) -> list[tuple[Record, Sale]]:
    """Ten days on three partitions, now and then a little out of order, late, or sent twice."""
    chance = random.Random(seed)
    found, offsets = [], defaultdict(int)
    for hour in range(0, 240, 2):
        partition = chance.randrange(PARTITIONS)
        before = chance.choice([0, 0, 0, 0.9, 30]) if hour > 30 else 0
        event = sale(
            hour - before, chance.choice("abc"), chance.randint(0, 9), chance.choice([None, None, f"id{hour // 9}"])
        )
        found.append((record(partition, offsets[partition]), event))
        offsets[partition] += 1
    return found


def all_told(found: list[tuple[Record, Sale]], restarts: float, seed: int) -> dict[str, Day]:
    """What is told of the records, by a process that is started again with this probability after a day."""
    chance = random.Random(seed)
    queues = {partition: [one for one in found if one[0].partition == partition] for partition in range(PARTITIONS)}
    calendar, position, result = Calendar(FOUR, range(PARTITIONS), CLOCK), dict.fromkeys(queues, 0), {}
    last: list[Day] = []
    while any(position[partition] < len(queue) for partition, queue in queues.items()):
        # By time, so that what is late is late in every run.
        waiting = [
            queue[position[partition]] for partition, queue in queues.items() if position[partition] < len(queue)
        ]
        one, event = min(waiting, key=lambda each: found.index(each))
        calendar.take(one, event)
        position[one.partition] += 1
        for day in calendar.over(frozenset()):
            last = [event for event in calendar.tell(day) if isinstance(event, Day)]
            assert not result.keys() & {event.event_id for event in last}, "told twice"
            result |= {event.event_id: event for event in last}
            after = calendar.after(day, position)
            calendar.close(day)
            if chance.random() < restarts:
                calendar, position = Calendar(FOUR, range(PARTITIONS), CLOCK, day), after
                for told_event in last:
                    calendar.restore(told_event)
                break
    return result


@pytest.mark.parametrize("seed", range(40))
def test_a_process_that_is_started_again_tells_what_one_without_faults_tells(seed: int) -> None:
    found = sales(seed)
    undisturbed = all_told(found, 0, seed)
    assert len(undisturbed) > 15
    assert all_told(found, 0.7, seed) == undisturbed


def test_online_retail_in_the_stream_is_what_the_forecast_was_trained_on() -> None:
    file = FOLDER / "online_retail" / "online_retail.csv.gz"
    wanted, found = articles.load(file), invoices.load(file)
    calendar, days = Calendar(DAYS, [0], CLOCK), {}
    for offset, invoice in enumerate(found):
        calendar.take(record(offset=offset), invoice)
    for day in calendar.over(frozenset()):
        if day % 20 == 0:
            days |= {event.event_id: event for event in calendar.tell(day)}
        calendar.close(day)
    assert calendar.told == number_of(wanted.day(wanted.pieces.shape[1] - 1)) - 1
    rows = dict(zip(wanted.articles, wanted.pieces.tolist(), strict=True))
    first = number_of(wanted.start)
    for event in days.values():
        assert isinstance(event, ArticleDayEvent)
        end = number_of(event.day) - first + 1
        row = [0.0] * HISTORY_DAYS + rows[event.article][:end]
        assert list(event.pieces) == row[-HISTORY_DAYS:], event.event_id
    assert len(days) > 18 * 1_000


def test_an_article_day_is_of_its_worker() -> None:
    lines = (
        InvoiceLine(article="85123A", pieces=6, price=2.5),
        InvoiceLine(article="85123A", pieces=2, price=2.5),
        InvoiceLine(article="22423", pieces=-1, price=10),
        InvoiceLine(article="22423", pieces=5, price=0),
        InvoiceLine(article="POST", pieces=1, price=18),
    )
    invoice = InvoiceEvent(event_id="1", occurred_at=START, invoice_id="1", lines=lines)
    assert list(DAYS.amounts(invoice)) == [("85123A", 6), ("85123A", 2)]
    event = DAYS.told("85123A", date(2026, 3, 1), [0] * 55 + [8])
    assert (event.event_id, event.key) == ("85123A/2026-03-01", "85123A")
    assert event.occurred_at == datetime(2026, 3, 2, tzinfo=UTC)
    assert isinstance(event, SalesForecast.event)
    assert DAYS.history_of(event)[-1] == 8


def test_days_are_counted_from_1970() -> None:
    assert day_of(0) == number_of(date(1970, 1, 1)) == 0
    assert date_of(day_of(time_of(sale(5)))) == START.date()
