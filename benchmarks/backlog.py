"""A source topic that only the benchmark writes to, so that partition and offset of an event follow from its number."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from benchmarks.answers import place_group
from benchmarks.events import PARTITIONS, Feed, whole
from tests.services import ServiceError, create_topic, produce_many, unique

GONE_S = 15.0


class Backlog:
    """Events of a feed on a topic of their own, which begins empty."""

    def __init__(self, bootstrap: str, topic: str, feed: Feed) -> None:
        self.bootstrap, self.topic, self.feed = bootstrap, topic, feed
        self.count = 0
        renew_topics(bootstrap, [topic])

    def send(self, count: float) -> range:
        """Write the next `count` events, rounded up to fill all partitions alike; their numbers."""
        events = self.reserve(count)
        self.write(events)
        return events

    def write(self, events: range) -> None:
        """Write these events, which are reserved."""
        for partition in range(PARTITIONS):
            numbers = range(events.start + partition, events.stop, PARTITIONS)
            produce_many(self.bootstrap, self.topic, map(self.feed.record, numbers), partition=partition)

    def reserve(self, count: float) -> range:
        """The numbers of the next `count` events, rounded up, for a caller that writes them itself."""
        events = range(self.count, self.count + whole(count))
        self.count = events.stop
        return events

    def last(self, count: float) -> range:
        """The last `count` events, rounded up; all of them if there are not so many."""
        return range(max(self.count - whole(count), 0), self.count)

    def group_at(self, events: range) -> str:
        """A new consumer group that has everything before these events behind it."""
        group = unique("bench")
        offsets = dict.fromkeys(range(PARTITIONS), events.start // PARTITIONS)
        place_group(self.bootstrap, group, self.topic, offsets)
        return group


@contextmanager
def backlog(bootstrap: str, topic: str, feed: Feed) -> Iterator[Backlog]:
    """An empty backlog, whose topic is gone afterwards."""
    yield Backlog(bootstrap, topic, feed)
    delete_topics(bootstrap, [topic])


def renew_topics(bootstrap: str, topics: Sequence[str], partitions: int = PARTITIONS) -> None:
    """Make these topics, empty."""
    delete_topics(bootstrap, topics)
    for topic in topics:
        create_topic(bootstrap, topic, partitions)


def delete_topics(bootstrap: str, topics: Sequence[str]) -> None:
    """Delete those that are there, and wait until no broker shows them.

    Raises:
        ServiceError: they stay.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})
    for asked in admin.delete_topics(list(topics)).values():
        try:
            asked.result(GONE_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    give_up = time.monotonic() + GONE_S
    while left := set(admin.list_topics(timeout=GONE_S).topics).intersection(topics):
        if time.monotonic() > give_up:
            raise ServiceError(f"{', '.join(left)} cannot be deleted; see whether the broker allows it")
        time.sleep(0.05)
