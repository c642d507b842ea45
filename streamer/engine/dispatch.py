"""Which batch the device gets next: the one that the batcher has ready, or a suspect alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from streamer.clock import Clock
from streamer.engine.attempts import Attempts
from streamer.engine.batcher import Batcher, Release
from streamer.ports import Runner
from streamer.records import Batch, BatchResult, Item


class Dispatch:
    """Stands between batcher and runner. Marks what is on the device, so that a successor knows it."""

    def __init__(self, batcher: Batcher, runner: Runner, attempts: Attempts, clock: Clock) -> None:
        self._batcher = batcher
        self._runner = runner
        self._attempts = attempts
        self._clock = clock
        self._alone: deque[tuple[float, Item]] = deque()
        self._lone = False  # is one of them on the device?

    def __len__(self) -> int:
        """Items that wait for the device."""
        return len(self._batcher) + len(self._alone)

    def add(self, items: Sequence[Item], now: float) -> None:
        """Let items wait from `now` on."""
        if suspects := self._attempts.suspects(items):
            self._alone.extend((now, item) for item in suspects)
            held = set(map(id, suspects))
            items = [item for item in items if id(item) not in held]
        self._batcher.add(items, now)

    def submit(self) -> None:
        """Give the runner the batches that are ready. While suspects wait, nothing else goes and each suspect goes
        alone: a death then tells which record it was."""
        runner = self._runner
        while not self._lone and (out := runner.out()) < runner.slots:
            now = self._clock.now()
            if self._alone:
                if out:
                    return
                since, item = self._alone.popleft()
                batch = Batch([item], Release.ALONE, item.cost, now - since)
            else:
                reason = self._batcher.ready(now, out)
                if reason is None:
                    return
                batch = self._batcher.take(now, reason)
            wanted = [item for item in batch.items if not item.lane.gone or item.followers]
            if wanted:
                self._lone = batch.reason == Release.ALONE
                self._attempts.begin(wanted, alone=self._lone)
                runner.submit(msgspec.structs.replace(batch, items=wanted))

    def finished(self, timeout_s: float) -> list[BatchResult]:
        """Batches that are done; waits up to `timeout_s` for the first. Raises the error that ended the runner."""
        results = self._runner.finished(timeout_s)
        for _ in results:
            self._attempts.end()
            self._lone = False
        return results
