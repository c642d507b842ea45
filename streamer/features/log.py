"""What predictions were made of, for training and for explaining a prediction: committed together with them."""

from __future__ import annotations

import msgspec

from schemas import Event
from streamer.features.entities import AsOf
from streamer.records import Messages
from streamer.slices import Row
from streamer.worker import Features

SHARES = 1 << 16
SPREAD = 40_503
"""Odd, and near SHARES / the golden ratio (D. Knuth, TAOCP 3, 6.4): offsets in a row are spread over all shares."""


class FeatureLog:
    """One message for each of a share of the predictions. The share has the same ones when records are read again."""

    def __init__(self, worker: str, topic: str, share: float) -> None:
        self._worker = worker
        self._topic = topic
        self._below = round(share * SHARES)

    def of(self, row: Row) -> Messages | None:
        """What is published beside the prediction of a record: a `schemas.UsedFeatures`; None for most records, and for
        those of which no features were read."""
        columns, at = row
        as_of: AsOf | None = columns.as_of[at] if columns.as_of else None
        if as_of is None or not columns.features or (row.offset * SPREAD + row.partition) % SHARES >= self._below:
            return None
        value = used(self._worker, (columns.topic, row.partition, row.offset), row.event, columns.features[at], as_of)
        return Messages(self._topic, row.partition, [columns.keys[at]], [value])


def used(worker: str, source: tuple[str, int, int], event: Event, features: Features, as_of: AsOf) -> bytes:
    """A `schemas.UsedFeatures` as JSON; `source` is topic, partition and offset of the event's record."""
    topic, partition, offset = source
    return _ENCODER.encode(
        {
            "prediction_id": f"{worker}/{topic}/{partition}/{offset}",
            "event_id": event.event_id,
            "source": {"topic": topic, "partition": partition, "offset": offset},
            "features_as_of": as_of,
            "features": dict(features),  # a worker that reads none has a read-only view
        }
    )


_ENCODER = msgspec.json.Encoder()
