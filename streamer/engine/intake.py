"""What happens to a record before it needs the device: decoded, filtered, given its features, answered from the cache.

Each stage takes items, settles those that end here and returns the rest. A method that a worker does not define costs
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streamer.cache.answers import ContentKey
from streamer.device.failures import rejection
from streamer.engine.ledger import Ledger
from streamer.engine.sharing import Sharing
from streamer.ports import Cache, Codec, FeatureStore
from streamer.records import Item, Predicted, Rejected, Skipped
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
    """The stages in front of the batcher, and the answers that equal items share."""

    def __init__(self, parts: IntakeParts, ledger: Ledger) -> None:
        self._parts = parts
        self._ledger = ledger
        self._sharing = Sharing()
        worker = parts.worker
        self._weighs = overrides(worker, "accepts") or overrides(worker, "cost")
        self._reads_features = overrides(worker, "feature_key")
        self._caches = overrides(worker, "cache_key")

    def decode(self, items: list[Item]) -> list[Item]:
        for item, rejected in self._parts.codec.decode_many(items):
            self._ledger.settle(item, rejected)
        if self._weighs:
            for item in items:
                if item.outcome is None:
                    self._weigh(item)
        return [item for item in items if item.outcome is None]

    def _weigh(self, item: Item) -> None:
        worker = self._parts.worker
        try:
            if not worker.accepts(item.event):
                self._ledger.settle(item, Skipped())
            else:
                item.cost = int(worker.cost(item.event))
        except Exception as error:  # as in the model: one bad event must never take the worker down
            self._ledger.settle(item, rejection(error))

    def read_features(self, items: list[Item]) -> list[Item]:
        worker = self._parts.worker
        if not self._reads_features:
            return items
        for item in items:
            try:
                item.entity = worker.feature_key(item.event)
            except Exception as error:
                self._ledger.settle(item, rejection(error))
        asking = [item for item in items if item.outcome is None and item.entity is not None]
        if asking:
            for item, why in self._parts.features.read_many(asking):
                self._ledger.settle(item, rejection(why))
        return [item for item in items if item.outcome is None]

    def look_up(self, items: list[Item]) -> list[Item]:
        """Settle items that the cache can answer, let equal items wait for the one that is computed, return the
        rest."""
        if not self._caches:
            return items
        parts = self._parts
        keyed: list[Item] = []
        rest: list[Item] = []
        for item in items:
            try:
                features = parts.worker.cache_key(item.event, item.features)
                item.cache_key = None if features is None else parts.content_key.of(features)
            except Exception as error:  # also a number that is too large for the key's encoding
                self._ledger.settle(item, rejection(error))
                continue
            (rest if item.cache_key is None else keyed).append(item)
        asked = [item for item in keyed if not self._follow(item)]
        hits = misses = 0
        for item, answer in zip(asked, parts.cache.get_many([item.cache_key or b"" for item in asked]), strict=True):
            if answer is not None:
                hits += 1
                self._ledger.settle(item, Predicted(answer, cached=True))
            elif not self._follow(item):  # an equal item of this very poll may have come first
                misses += 1
                self._sharing.lead(item)
                rest.append(item)
        if keyed:
            parts.metrics.cache(hits, misses, len(keyed) - hits - misses, 0)
        return rest

    def _follow(self, item: Item) -> bool:
        found = self._sharing.follow(item)
        if isinstance(found, Predicted):
            self._ledger.settle(item, found)
        return bool(found)

    def share(self, items: Sequence[Item], outcomes: Sequence[Predicted | Rejected]) -> list[Item]:
        """Give the followers of settled items their answer; return the followers that must be tried by themselves."""
        alone: list[Item] = []
        if not self._caches:
            return alone
        for item, outcome in zip(items, outcomes, strict=True):
            followers = self._sharing.answered(item, outcome)
            if isinstance(outcome, Rejected):
                alone += followers
                continue
            for follower in followers:
                self._ledger.settle(follower, Predicted(outcome.answer, cached=True))
        return alone

    def remember(self, items: Sequence[Item]) -> None:
        """Fill the cache with what is durable now."""
        if not self._caches:
            return
        answers = []
        for item in items:
            outcome = item.outcome
            if item.cache_key is not None and isinstance(outcome, Predicted) and not outcome.cached:
                answers.append((item.cache_key, outcome.answer))
                self._sharing.end(item)
        if answers:
            self._parts.cache.put_many(answers)

    def forget(self) -> None:
        """Partitions were given up: no item waits for an item of theirs."""
        self._sharing.forget()
