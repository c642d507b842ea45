"""The consumer's settings, where a group starts, and which errors only a person can mend."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError

from streamer.errors import BadConfig, BadData, Exit, Unreachable
from streamer.kafka.rights import NO_TOPIC, needs

START = {"earliest": OFFSET_BEGINNING, "latest": OFFSET_END}
DEFAULTS: Mapping[str, str] = {
    # Offsets are committed only with published outcomes, never by a timer.
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "isolation.level": "read_committed",
    # An offset that retention has overtaken is an error, not a silent skip; a new group's start is set on assignment.
    "auto.offset.reset": "error",
    "check.crcs": "true",
    "enable.partition.eof": "true",  # tells the end, so lag can be counted without transactions' marks
    # After a drained queue librdkafka waits this long before the next fetch; its default of 1 s halves throughput.
    "fetch.queue.backoff.ms": "5",
    "fetch.wait.max.ms": "50",
    # A connection whose peer has vanished is given up after this, like a session; the default of 60 s would stall a
    # partition for a minute. No answer to a consumer takes longer, except to requests that join a group; those have
    # their own timeout. (A transactional producer's is the timeout of its transaction.)
    "socket.timeout.ms": "6000",
    "queued.max.messages.kbytes": "65536",
    # New partitions of a topic are found after this; the default of 5 minutes would leave them unread for as long.
    "topic.metadata.refresh.interval.ms": "30000",
}
CLASSIC: Mapping[str, str] = {
    "partition.assignment.strategy": "cooperative-sticky",
    # A killed worker's partitions move after this; 6 s is the broker's minimum.
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "2000",
}
FATAL: Mapping[int, tuple[type[Exit], str]] = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: (Unreachable, NO_TOPIC),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (Unreachable, needs("READ", "topic", "{topic}")),
    KafkaError.GROUP_AUTHORIZATION_FAILED: (Unreachable, needs("READ", "group", "{group}")),
    KafkaError.INVALID_SESSION_TIMEOUT: (
        BadConfig,
        "set session.timeout.ms within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
    ),
    KafkaError._AUTO_OFFSET_RESET: (
        BadData,
        "retention has deleted records that were not read yet; reset the group's offsets when that is accepted",
    ),
}
