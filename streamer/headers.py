"""The names of every record header that streamer writes or reads; all values are UTF-8 text.

The dead-letter names are the broker's own (KIP-1191, KIP-1034), so that other tools read them too.
"""

from __future__ import annotations

DLQ_TOPIC = "__dlq.errors.topic"
DLQ_PARTITION = "__dlq.errors.partition"
DLQ_OFFSET = "__dlq.errors.offset"
DLQ_GROUP = "__dlq.errors.group"
DLQ_MESSAGE = "__dlq.errors.message"
DLQ_ERROR = "__streams.errors.exception"
"""The class of the error."""

REASON = "streamer-reason"
"""One of `streamer.errors.Reason`."""
WORKER = "streamer-worker"
ATTEMPTS = "streamer-attempts"
"""How often the record has become a dead letter; a replayed record carries it back to its source topic."""
SOURCE = "streamer-source"
"""`<topic>/<partition>/<offset>` of the record as it was first read; set by `streamer replay`."""

MODEL = "streamer-model"
MODEL_VERSION = "streamer-model-version"
CONTENT_TYPE = "content-type"
TRACEPARENT = "traceparent"

ERRORS = frozenset({DLQ_TOPIC, DLQ_PARTITION, DLQ_OFFSET, DLQ_GROUP, DLQ_MESSAGE, DLQ_ERROR, REASON, WORKER, ATTEMPTS})
"""What a dead letter has beyond the headers of its source record."""
