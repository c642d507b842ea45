"""Events to measure with, as records that are ready to send: making them must not be what is measured.

An event is known by its number, which is its id and its record key. Event n goes to partition n modulo 4, so that on
a topic that only a benchmark writes to, partition and offset follow from the number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import work
from tests.data import FOLDER
from workers import datasets
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting

TEXTS = FOLDER / "banking77" / "train.csv.gz"
SEED = 7
PARTITIONS = 4
DIFFERENT = 4_096
"""Contents of which synthetic events are made; nothing caches them, so each is worked out anew."""
DIFFERENT_LEADS = 5_000
WORDS = (8, 40)
VOCABULARY = 3_000
BROKEN_EACH, BROKEN_AT = 1_000, 500
"""One event in so many is broken, and which of them."""

Record = tuple[bytes, bytes]
"""Key and value."""


class Contents(NamedTuple):
    """What events say, as the JSON after the id, and what the model makes of each: score and label."""

    tails: list[bytes]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


class Wanted(NamedTuple):
    """What must come of a range of events, one row each: whether it is `broken`, and its score and label (None: they
    are not known)."""

    events: range
    broken: NDArray[np.bool_]
    scores: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None


class Feed(NamedTuple):
    """Endless events: the record of a number, and what must come of a range of them."""

    record: Callable[[int], Record]
    wanted: Callable[[range], Wanted]


def synthetic(contents: Contents, picks: NDArray[np.int64] | None = None) -> Feed:
    """Events with these contents in turn, or with those that `picks` names for each number; some are broken."""
    tails, count = contents.tails, len(contents.tails)

    def record(number: int) -> Record:
        key = b"%09d" % number
        value = b'{"event_id":"%b",%b' % (key, tails[number % count if picks is None else picks[number]])
        return key, broken(value, number // BROKEN_EACH) if number % BROKEN_EACH == BROKEN_AT else value

    def wanted(events: range) -> Wanted:
        numbers = np.arange(events.start, events.stop)
        which = numbers % count if picks is None else picks[numbers]
        return Wanted(events, numbers % BROKEN_EACH == BROKEN_AT, contents.scores[which], contents.labels[which])

    return Feed(record, wanted)


def broken(value: bytes, kind: int) -> bytes:
    """A wrong type, a missing field, or a record that is cut off."""
    head, colon, _ = value.rpartition(b'":')  # the last field is the one that the model reads
    return [head + colon + b'{"wrong":true}}', head.rpartition(b',"')[0] + b"}", value[: len(value) // 2]][kind % 3]


@cache
def tabular() -> Contents:
    """Sixteen numbers each, about 225 bytes with the id."""
    rows = np.random.default_rng(SEED).normal(size=(DIFFERENT, work.FEATURES)).round(6)
    with torch.inference_mode():
        answers = work.tabular_answers(work.network()(work.features_tensor(rows.tolist())))
    return Contents([_tail(features=row) for row in rows.tolist()], *map(np.asarray, answers))


@cache
def flat() -> Contents:
    """Eleven fields each, about 260 bytes with the id."""
    random = Random(SEED)
    rows = [_fields(random) for _ in range(DIFFERENT)]
    events = [work.FlatEvent(event_id="", **row) for row in rows]
    with torch.inference_mode():
        answers = work.tabular_answers(work.network()(work.features_tensor(work.flat_rows(events))))
    return Contents([_tail(**row) for row in rows], *map(np.asarray, answers))


def _fields(random: Random) -> dict[str, Any]:
    return {
        "age": random.randint(18, 90),
        "visits": random.randint(0, 30),
        "calls": random.randint(0, 12),
        "balance": round(random.gauss(1_500, 3_000), 2),
        "income": round(random.uniform(12_000, 140_000), 2),
        "discount": round(random.random() / 2, 3),
        "days_open": round(random.uniform(0, 3_000), 1),
        "share": round(random.random(), 4),
        "channel": random.choice(("web", "phone", "branch")),
        "segment": random.choice(("new", "known", "lost")),
        "plan": random.choice(("basic", "full")),
    }


@cache
def text(count: int = DIFFERENT) -> Contents:
    """Texts of 8 to 40 words of a vocabulary of 3,000; the answers are those of batches without padding."""
    said = texts(count)
    rows = [work.word_ids(one) for one in said]
    scores, labels = np.zeros(count), np.zeros(count, np.int64)
    network = work.encoder()
    with torch.inference_mode():
        for places, words in unpadded(rows, 1_000):
            scores[places], labels[places] = work.text_answers(network(words))
    return Contents([_tail(text=one) for one in said], scores, labels)


def texts(count: int) -> list[str]:
    """What the text events say, the same each time."""
    random = Random(SEED)
    return [
        " ".join(f"word{random.randrange(VOCABULARY)}" for _ in range(random.randint(*WORDS))) for _ in range(count)
    ]


def unpadded(rows: Sequence[Sequence[int]], words_max: int) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Batches of texts of one length, each of `words_max` words at most: their places among all, and their words."""
    by_length: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(place)
    for length, places in sorted(by_length.items()):
        size = max(words_max // length, 1)
        for at in range(0, len(places), size):
            chosen = places[at : at + size]
            yield chosen, work.words_tensor([rows[place] for place in chosen], length)


def leads() -> Feed:
    """Leads that a cache has never seen, as each has a balance of its own."""
    random, worker = Random(SEED), LeadScoring()
    people = [
        # All with consent: each event then has a prediction, and the counts are plain.
        worker.sample(random, number).model_copy(update={"consent": True}).model_dump(mode="json")
        for number in range(DIFFERENT_LEADS)
    ]

    def record(number: int) -> Record:
        name = f"{number:09d}"
        lead = people[number % len(people)] | {"event_id": name, "lead_id": name, "balance": number}
        return name.encode(), msgspec.json.encode(lead)

    return Feed(record, _all_valid)


def tickets(texts: Sequence[str], picks: NDArray[np.int64] | None = None) -> Feed:
    """Tickets with these texts, each but once as it is, then with a mark; or with the texts that `picks` names for
    each number, so that a cache can answer what was said before."""
    example = TicketRouting.example.model_dump(mode="json")

    def record(number: int) -> Record:
        name = f"{number:09d}"
        again, which = divmod(number if picks is None else int(picks[number]), len(texts))
        said = f"{texts[which]} ({again})" if again else texts[which]
        ticket = {"event_id": name, "ticket_id": name, "customer_id": name, "text": said}
        return name.encode(), msgspec.json.encode(example | ticket)

    return Feed(record, _all_valid)


def repeats(count: int, share: float) -> NDArray[np.int64]:
    """What each of `count` events says: the next new content, or with probability `share` one that was said before."""
    random = np.random.default_rng(SEED)
    new = random.random(count) >= share
    new[0] = True
    known = np.cumsum(new)  # how many contents there are, this one included
    return np.where(new, known - 1, (random.random(count) * known).astype(np.int64))


def whole(count: float) -> int:
    """The next number of events that fills all partitions alike."""
    return math.ceil(count / PARTITIONS) * PARTITIONS


def load_texts(file: Path = TEXTS) -> list[str]:
    """The texts of Banking77, in an order that mixes the intents.

    Raises:
        FileNotFoundError: the file is not there; the message says where its publisher keeps it.
    """
    texts = [row["text"] for row in datasets.read(file, "banking77")]
    Random(SEED).shuffle(texts)
    return texts


def _all_valid(events: range) -> Wanted:
    return Wanted(events, np.zeros(len(events), np.bool_), None, None)


def _tail(**field: object) -> bytes:
    return msgspec.json.encode({"occurred_at": "2026-01-01T10:00:00Z", **field})[1:]
