"""`streamer tail`: read a topic as a careful reader does, committed records only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from streamer.cli.common import AsJson, ConfigFile, Limit, Sets, print_json, settings
from streamer.cli.view import View, masked, whole
from streamer.kafka import clients
from streamer.kafka.rights import needs
from streamer.wire import headers

AS_IT_IS = View()
GROUP = "streamer-tail"


class Start(StrEnum):
    START = "start"
    END = "end"


class End(StrEnum):
    END = "end"


Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="Events, predictions or dead letters (dlq.…).")]
ShowPii = Annotated[
    bool, typer.Option("--show-pii", help="Show personal data too, and open what is encrypted if there are keys.")
]
From = Annotated[Start, typer.Option("--from", help="Begin with the records that are there, or show only new ones.")]
To = Annotated[End | None, typer.Option("--to", help="Stop at the end that the topic has now.")]


def tail(
    topic: Topic,
    start: From = Start.END,
    end: To = None,
    limit: Limit = None,
    as_json: AsJson = False,
    show_pii: ShowPii = False,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Follow a topic until Ctrl-C: predictions with key and answer, dead letters with their reason.

    Keys and fields that are tagged as personal data are hidden, and so are fields that the model does not know.

    Example: streamer tail crm.leads.scores.v1 --from start --to end
    """
    chosen = settings(config, sets)
    view = (whole if show_pii else masked)(topic, chosen.encryption.keys_file)
    consumer = clients.consumer(chosen, GROUP)
    try:
        where = OFFSET_BEGINNING if start is Start.START else OFFSET_END
        known = clients.partitions(consumer, chosen, topic, "READ")
        consumer.assign([TopicPartition(topic, partition, where) for partition in known])
        with clients.explained(consumer, chosen, needs("READ", "topic", topic), needs("DESCRIBE", "group", GROUP)):
            messages = _messages(consumer) if end is None else _until_end(consumer, topic, known)
            for shown, message in enumerate(messages, start=1):
                print_json(as_object(message, view)) if as_json else print(as_line(message, view), flush=True)
                if shown == limit:
                    return
    finally:
        consumer.close()


def as_object(message: Any, view: View = AS_IT_IS) -> dict[str, Any]:
    """A record for programs. Its value is JSON if it parses as JSON, else text."""
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
        "key": view.key(message.key()),
        "headers": view.headers(message.headers()),
        "value": view.value(message.value()),
    }


def as_line(message: Any, view: View = AS_IT_IS) -> str:
    """A record for people, safe for a terminal: a producer must not be able to move its cursor."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in _line(message, view))


def _messages(consumer: Any) -> Iterator[Any]:
    while True:
        for message in consumer.consume(500, 0.2):
            if message.error() is None:
                yield message
            elif message.error().code() != KafkaError._PARTITION_EOF:
                raise KafkaException(message.error())


def _until_end(consumer: Any, topic: str, known: list[int]) -> Iterator[Any]:
    """The records before the ends that the partitions have now. The last offset may be the end marker of a
    transaction, which is no record, or belong to one that is open: then the client reports the end."""
    places = [TopicPartition(topic, partition) for partition in known]
    ends = {place.partition: consumer.get_watermark_offsets(place, clients.TIMEOUT_S)[1] for place in places}
    while ends:
        for message in consumer.consume(500, 0.2):
            partition, error = message.partition(), message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None and message.offset() < ends.get(partition, 0):
                yield message
            if error is not None or message.offset() >= ends.get(partition, 0) - 1:
                ends.pop(partition, None)


def _line(message: Any, view: View) -> str:
    said = {name: value or "" for name, value in view.headers(message.headers()).items()}
    key, value = view.key(message.key()), view.value(message.value())
    if headers.REASON in said:
        source = f"{said.get(headers.DLQ_TOPIC)}/{said.get(headers.DLQ_PARTITION)}/{said.get(headers.DLQ_OFFSET)}"
        attempts = said.get(headers.ATTEMPTS, "1")
        return f"{key}  {said[headers.REASON]}  {said.get(headers.DLQ_MESSAGE, '')}  from {source}, attempt {attempts}"
    if isinstance(value, dict) and isinstance(value.get("answer"), dict):
        answer = " ".join(f"{name}={_short(part)}" for name, part in value["answer"].items())
        cached = ", cached" if value.get("cache") == "hit" else ""
        return (
            f"{key}  {answer}  {value.get('worker')} {value.get('model_version')}{cached}  {value.get('produced_at')}"
        )
    return f"{key}  {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _short(part: Any) -> str:
    if isinstance(part, float):
        return f"{part:.4g}"
    return part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
