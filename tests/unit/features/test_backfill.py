"""Features made again are those that were used, whatever the windows lagged when they were."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from streamer.features.backfill import Made, Place, Seen, as_logged, level
from streamer.features.entities import Entities, Kept, decode, encode
from tests.echo import Counting, ping

ENTITIES = Entities(Counting.windows)


def records(count: int, seed: int = 1) -> list[Seen]:
    """Of five entities on three partitions, in order by partition; some out of time's order, sent twice, or with
    a time that cannot be."""
    chance = random.Random(seed)
    offsets, made = [0, 0, 0], []
    for number in range(count):
        entity = chance.randrange(5)
        partition = entity % 3
        event = ping(number - chance.choice([0, 0, 0, 3]), f"e{entity}", length=1)
        at = event.occurred_at + timedelta(hours=number - chance.uniform(0, 30))
        written_ms = round(at.timestamp() * 1000)
        event = event.model_copy(
            update={"occurred_at": at + chance.choice([0, 0, 0, 0, 0, 0, 300]) * timedelta(days=1)}
        )
        made.append(Seen((partition, offsets[partition]), event.name, event, written_ms))
        offsets[partition] += chance.randint(1, 3)  # between them lie records of no entity, and marks of transactions
    return made


def used(found: list[Seen], lag: int, seed: int) -> dict[Place, Made]:
    """What a worker would have read, each event while the windows are up to `lag` records behind or ahead."""
    chance, answers = random.Random(seed), {}
    for number, seen in enumerate(found):
        state = Kept()
        for before in found[: max(0, number + 1 + chance.randint(-lag, lag))]:
            if (before.place[0], before.entity) == (seen.place[0], seen.entity) and not before.future:
                ENTITIES.take(state, before.event, before.place[1])
        answers[seen.place] = Made(seen, *ENTITIES.known(decode(encode(state)), seen.event, seen.place[1]))
    return answers


@pytest.mark.parametrize("lag", [0, 4, 40])
@pytest.mark.parametrize("seed", range(5))
def test_what_was_used_is_made_again_value_by_value(lag: int, seed: int) -> None:
    found = records(120, seed)
    wanted = used(found, lag, seed)
    logged = {place: made.as_of.offset for place, made in wanted.items()}
    again = {made.seen.place: made for made in as_logged(ENTITIES, found, logged)}
    assert again == wanted


def test_only_what_is_asked_for_comes_and_only_once() -> None:
    found = records(50)
    asked = {found[7].place: -1, found[20].place: found[20].place[1]}
    assert [made.seen.place for made in as_logged(ENTITIES, found, asked)] == list(asked)


def test_what_lags_would_be_noticed() -> None:
    found = records(120)
    wanted = used(found, 40, 1)
    assert {made.seen.place: made for made in level(ENTITIES, found)} != wanted


def test_what_one_trains_on_has_every_record_before_and_none_after() -> None:
    found = records(80)
    for made, read in zip(level(ENTITIES, found), used(found, 0, 1).values(), strict=True):
        assert made.seen == read.seen
        assert made.features == read.features


def test_a_record_that_is_gone_is_left_out() -> None:
    found = records(40)
    logged = {seen.place: seen.place[1] for seen in found}
    assert len(list(as_logged(ENTITIES, found[:-5], logged))) == 35
