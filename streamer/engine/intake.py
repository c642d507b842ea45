"""What happens to a record before it needs the device: decoded, filtered, given its features, answered from the cache.

Each stage takes records, settles those that end here and returns the rest. A method that a worker does not define costs
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streamer.cache.answers import ContentKey
from streamer.device.failures import rejection
from streamer.engine.sharing import Sharing
from streamer.ports import Cache, Codec, FeatureStore
from streamer.records import NO_FEATURES, Cached, Skipped
from streamer.slices import BatchResult, Row, Rows
from streamer.telemetry.metrics import Metrics
from streamer.worker import Worker, overrides


class IntakeParts(msgspec.Struct, frozen=True):
    """What the stages use."""

    worker: Worker[Any, Any]
    codec: Codec
    features: FeatureStore
    cache: Cache
    content_key: ContentKey
    metrics: Metrics


class Intake:
    """The stages in front of the batcher, and the answers that equal records share."""

    def __init__(self, parts: IntakeParts) -> None:
        self._parts = parts
        self._sharing = Sharing()
        worker = parts.worker
        self._chooses = overrides(worker, "accepts")
        self._weighs = overrides(worker, "cost")
        self._reads_features = overrides(worker, "feature_key")
        self._caches = overrides(worker, "cache_key")

    def decode(self, rows: Rows) -> Rows:
        for row, rejected in self._parts.codec.decode(rows):
            row.settle(rejected)
        rows = rows.open()
        if self._chooses or self._weighs:
            rows.columns.costs = [1] * len(rows.columns) if self._weighs else None
            for row in rows:
                self._weigh(row)
            rows = rows.open()
        return rows

    def _weigh(self, row: Row) -> None:
        worker, (columns, at) = self._parts.worker, row
        try:
            if self._chooses and not worker.accepts(row.event):
                row.settle(Skipped())
            elif columns.costs is not None:
                columns.costs[at] = int(worker.cost(row.event))
        except Exception as error:  # as in the model: one bad event must never take the worker down
            row.settle(rejection(error))

    def read_features(self, waiting: list[Rows]) -> list[Rows]:
        """One round trip for all of them."""
        if not self._reads_features:
            return waiting
        asked: dict[Row, str] = {}
        for rows in waiting:
            for row in rows:
                try:
                    entity = self._parts.worker.feature_key(row.event)
                except Exception as error:
                    row.settle(rejection(error))
                else:
                    if entity is not None:
                        asked[row] = entity
        if asked:
            for row, why in self._parts.features.read_many(list(asked), list(asked.values())):
                row.settle(rejection(why))
        return [rows.open() for rows in waiting]

    def look_up(self, waiting: list[Rows]) -> list[Rows]:
        """Settle records that the cache can answer, let equal ones wait for the one that is computed, return the
        rest."""
        if not self._caches:
            return waiting
        keyed = [row for rows in waiting for row in rows if self._key(row)]
        waits = {row for row in keyed if self._follow(row)}
        asked = [row for row in keyed if row not in waits]
        hits = misses = 0
        answers = self._parts.cache.get_many([row.columns.content_keys[row.at] for row in asked])
        for row, answer in zip(asked, answers, strict=True):
            if answer is not None:
                hits += 1
                row.settle(Cached(answer))
            elif self._follow(row):  # an equal record of this very poll came first
                waits.add(row)
            else:
                misses += 1
                self._sharing.lead(row)
        if keyed:
            self._parts.metrics.cache(hits, misses, len(keyed) - hits - misses, 0)
        return [Rows(rows.columns, [row.at for row in rows.open() if row not in waits]) for rows in waiting]

    def _key(self, row: Row) -> bool:
        """Whether the answer to a record may be in the cache; then the column of keys has its key."""
        columns, at = row
        try:
            decides = self._parts.worker.cache_key(row.event, columns.features[at] if columns.features else NO_FEATURES)
            if decides is not None:
                columns.content_keys[at] = self._parts.content_key.of(decides)
        except Exception as error:  # also a number that is too large for the key's encoding
            row.settle(rejection(error))
            return False
        return decides is not None

    def _follow(self, row: Row) -> bool:
        found = self._sharing.follow(row)
        if isinstance(found, Cached):
            row.settle(found)
        return bool(found)

    def share(self, result: BatchResult) -> list[Rows]:
        """Give the followers of settled records their answer; return the followers that must be tried by themselves."""
        alone: list[Rows] = []
        if not self._caches:
            return alone
        for rows, outcomes in result.parts():
            for row, outcome in zip(rows, outcomes, strict=True):
                for follower in self._sharing.answered(row, outcome):
                    if isinstance(outcome, bytes):
                        follower.settle(Cached(outcome))
                    else:
                        alone.append(follower.alone())
        return alone

    def remember(self, durable: Sequence[Rows]) -> None:
        """Fill the cache with what is durable now."""
        if not self._caches:
            return
        answers = []
        for rows in durable:
            for row in rows:
                if (key := rows.columns.content_keys.get(row.at)) is None:
                    continue
                self._sharing.end(row)
                if isinstance(outcome := row.outcome, bytes):
                    answers.append((key, outcome))
        if answers:
            self._parts.cache.put_many(answers)

    def forget(self) -> None:
        """Partitions were given up: no record waits for a record of theirs."""
        self._sharing.forget()
