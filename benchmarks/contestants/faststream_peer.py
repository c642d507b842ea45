"""FastStream: a batch subscriber and a batch publisher of its confluent broker, on uvloop as its command line has it.

At least once: a batch is published and flushed before it is acknowledged, which commits it, and one that fails is read
again. Confirmation message by message is off, since one flush waits for all in less time; but an output that the broker
refuses for good is then not noticed. Off too are its validation of arguments and its decoding, which `Work` does.
"""

from __future__ import annotations

import asyncio

import uvloop
from confluent_kafka import Message
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaPublishMessage

from benchmarks import work
from benchmarks.contestants import common

WINDOW_S = 0.01

Batch = tuple[Message, ...]


def broker(bootstrap: str, source: str, target: str, group: str, todo: work.Work) -> KafkaBroker:
    """A broker with the one subscriber."""
    own = {"auto.offset.reset", "enable.auto.commit"}  # the subscriber sets these itself
    made = KafkaBroker(
        bootstrap,
        config={name: value for name, value in {**common.CONSUMER, **common.PRODUCER}.items() if name not in own},
        allow_auto_create_topics=False,
        apply_types=False,
        logger=None,
    )
    outputs = made.publisher(target, batch=True, autoflush=True)

    async def raw(message: KafkaMessage) -> Batch:
        return message.raw_message

    @made.subscriber(
        source,
        group_id=group,
        batch=True,
        max_records=todo.batch_max,
        polling_interval=WINDOW_S,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=raw,
    )
    async def score(events: Batch) -> None:
        found = todo.run([event.value() for event in events])
        messages = [
            KafkaPublishMessage(output, key=event.key())
            for event, output in zip(events, found, strict=True)
            if output is not None
        ]
        if messages:
            await outputs.publish(*messages, no_confirm=True)

    return made


def main() -> None:
    """Serve what the command line says. The application itself ends at SIGTERM."""
    options = common.options()
    made = broker(options.bootstrap, options.source, options.target, options.group, work.make(options.work))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(FastStream(made, logger=None).run())


if __name__ == "__main__":
    main()
