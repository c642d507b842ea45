"""`streamer lag`: how far a worker is behind, and when it will have caught up."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, TopicPartition

from streamer.cli.common import AsJson, ConfigFile, Sets, print_json, print_rows, settings
from streamer.cli.run import WorkerName
from streamer.kafka import clients
from streamer.kafka.rights import needs
from streamer.settings import Settings

SAMPLE_S = 2.0
OLDEST_S = 5.0


class Sample(NamedTuple):
    """One partition at one moment: the next offset to answer and the end, both in records."""

    partition: int
    position: int
    end: int

    @property
    def behind(self) -> int:
        return max(0, self.end - self.position)


class Drain(NamedTuple):
    """Rates between two samples in records a second, and the seconds until nothing waits (None: never)."""

    answered_per_s: float
    arriving_per_s: float
    seconds: float | None


def lag(worker: WorkerName, as_json: AsJson = False, sets: Sets = None, config: ConfigFile = None) -> None:
    """Show the lag of each partition in records and in seconds (the age of the oldest unread record).

    Example: streamer lag lead-scoring --json
    """
    from streamer import discovery

    chosen = settings(config, sets)
    found = discovery.find(worker)
    group = chosen.kafka.group(found.name)
    consumer = clients.consumer(chosen, group)
    try:
        first = _samples(consumer, chosen, found.source, group)
        started = time.monotonic()
        ages, answered = _oldest(consumer, chosen, found.source, first)
        time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - started)))
        last = _samples(consumer, chosen, found.source, group)
        seconds = time.monotonic() - started
    finally:
        consumer.close()
    last = [answered.get(sample, sample) for sample in last]
    rates = drain([answered.get(sample, sample) for sample in first], last, seconds)
    rows = [
        {**sample._asdict(), "behind": sample.behind, "seconds": ages.get(sample.partition, 0.0)} for sample in last
    ]
    if as_json:
        total = {"behind": sum(sample.behind for sample in last), "seconds": max(ages.values(), default=0.0)}
        print_json({"group": group, "topic": found.source, **total, "partitions": rows, "drain": rates._asdict()})
        return
    print_rows(rows)
    eta = "not catching up" if rates.seconds is None else f"caught up in {rates.seconds:.0f} s"
    print(f"{rates.answered_per_s:.0f} answered/s, {rates.arriving_per_s:.0f} arriving/s: {eta}")


def drain(first: list[Sample], last: list[Sample], seconds: float) -> Drain:
    """When the group will have caught up, if both rates stay."""
    answered = (sum(sample.position for sample in last) - sum(sample.position for sample in first)) / seconds
    arriving = (sum(sample.end for sample in last) - sum(sample.end for sample in first)) / seconds
    behind = sum(sample.behind for sample in last)
    if behind == 0:
        return Drain(answered, arriving, 0.0)
    return Drain(answered, arriving, behind / (answered - arriving) if answered > arriving else None)


def _samples(consumer: Any, chosen: Settings, topic: str, group: str) -> list[Sample]:
    with clients.explained(consumer, chosen, needs("READ", "topic", topic), needs("DESCRIBE", "group", group)):
        samples = []
        for committed in clients.committed(consumer, topic, clients.partitions(consumer, chosen, topic, "READ")):
            low, end = consumer.get_watermark_offsets(committed, timeout=clients.TIMEOUT_S)
            start = low if chosen.kafka.start == "earliest" else end
            samples.append(Sample(committed.partition, committed.offset if committed.offset >= 0 else start, end))
    return samples


def _oldest(
    consumer: Any, chosen: Settings, topic: str, samples: list[Sample]
) -> tuple[dict[int, float], dict[Sample, Sample]]:
    """Partition to the age of its oldest unread record in seconds. And for a sample that is behind only by marks of
    transactions, which no reader ever gets: the corrected sample."""
    ages: dict[int, float] = {}
    answered: dict[Sample, Sample] = {}
    waiting = {sample.partition: sample for sample in samples if sample.behind}
    consumer.assign([TopicPartition(topic, partition, sample.position) for partition, sample in waiting.items()])
    give_up = time.monotonic() + OLDEST_S
    with clients.explained(consumer, chosen, needs("READ", "topic", topic)):
        while waiting and time.monotonic() < give_up:
            for message in consumer.consume(100, 0.1):
                sample = waiting.get(message.partition())
                if sample is None:
                    continue
                if message.error() is None:
                    ages[sample.partition] = round(max(0.0, time.time() - message.timestamp()[1] / 1000), 3)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    answered[sample] = sample._replace(position=sample.end)
                else:
                    continue
                del waiting[sample.partition]
                consumer.pause([TopicPartition(topic, sample.partition)])
    consumer.unassign()
    return ages, answered
