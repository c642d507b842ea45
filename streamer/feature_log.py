"""What predictions were made of, for whoever trains on it or has to explain one: committed together with them."""

from __future__ import annotations

import msgspec

from streamer.records import Item, Message

SHARES = 1 << 16
SPREAD = 40_503
"""Odd, and near SHARES / the golden ratio (D. Knuth, TAOCP 3, 6.4): offsets in a row are spread over all shares."""


class FeatureLog:
    """One message for each of a share of the predictions, the same ones whenever a record is read again."""

    def __init__(self, worker: str, topic: str, share: float) -> None:
        self._worker = worker
        self._topic = topic
        self._below = round(share * SHARES)
        self._encode = msgspec.json.Encoder().encode

    def of(self, item: Item) -> list[Message]:
        """What is published beside the prediction of an item: a `schemas.UsedFeatures`, or nothing."""
        record = item.record
        if (record.offset * SPREAD + record.partition) % SHARES >= self._below:
            return []
        source = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        said = {
            "prediction_id": f"{self._worker}/{record.topic}/{record.partition}/{record.offset}",
            "event_id": item.event.event_id,
            "source": source,
            "features_as_of": {"offset": item.as_of.offset, "time_ms": item.as_of.time_ms},
            "features": dict(item.features),
        }
        return [Message(self._topic, record.partition, record.key, self._encode(said), [])]
