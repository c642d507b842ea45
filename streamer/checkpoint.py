"""What becomes durable together: predictions, dead letters, positions; then the cache, then the counts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from streamer.clock import Clock, Deadline
from streamer.errors import Refused, Unclear, Unreachable, Wait
from streamer.metrics import Metrics
from streamer.ports import Codec, OnCommitted, Sink, Source
from streamer.records import Item, Positions

log = structlog.get_logger(__name__)

REFUSALS_MAX = 10  # over five seconds of growing pauses: an election of leaders is no missing topic
BACKOFF_S = (0.05, 1.0)


class CommitPolicy(msgspec.Struct, frozen=True):
    """When to commit. After a commit the next one waits `rests` times what it took, at least `gap_s`: back to
    back the broker is still completing the last, answers CONCURRENT_TRANSACTIONS, and all take ten times as
    long. It never waits longer than `interval_s`, for which it gathers under backlog. One commit may take
    `timeout_s`."""

    interval_s: float = 0.1
    gap_s: float = 0.005
    rests: float = 2.0
    timeout_s: float = 10.0


class Checkpoint:
    """The outcomes that are released and not durable yet.

    A commit that fails keeps them: the same messages are written again, without a second run on the GPU.
    While one is unclear nothing may be added, so that what it was about stays exactly what it was.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        codec: Codec,
        clock: Clock,
        policy: CommitPolicy,
        metrics: Metrics,
        on_committed: OnCommitted,
    ) -> None:
        self._source = source
        self._sink = sink
        self._codec = codec
        self._clock = clock
        self._policy = policy
        self._metrics = metrics
        self._on_committed = on_committed
        self._items: list[Item] = []
        self._bytes = 0
        self._positions: Positions = {}
        self._unclear = False
        self._not_before = 0.0
        self._began = 0.0
        self._ended = 0.0
        self._failures = 0
        self._refusals = 0

    def __len__(self) -> int:
        """Records that are answered and not durable."""
        return len(self._items)

    @property
    def bytes(self) -> int:
        """Bytes of their keys and values."""
        return self._bytes

    @property
    def clear(self) -> bool:
        """Whether released items may be added."""
        return not self._unclear

    def add(self, items: Sequence[Item], positions: Positions) -> None:
        """Take released items, in order, and the positions after them."""
        if not items:
            return
        self._sink.write(self._codec.encode_many(items))
        self._items += items
        self._bytes += sum(item.record.size for item in items)
        self._positions |= positions

    def due_in(self, now: float, backlog_items: int) -> float | None:
        """Seconds until the next commit should begin, 0 or less for now; None when nothing is to be committed.

        `backlog_items`: how many items make it worth to gather for the whole interval.
        """
        if not self._positions and self.clear:
            return None
        at = self._not_before
        if len(self._items) >= backlog_items:
            at = max(at, self._ended + self._policy.interval_s)
        return at - now

    def commit(self, deadline: Deadline) -> Positions:
        """Commit everything added. Never raises for what time may cure: it is tried again at the next call.

        Returns the positions of partitions that somebody else has moved: the engine must forget them and
        read on from there. Empty nearly always.

        Raises:
            Exit: no further try will help.
        """
        moved: Positions = {}
        self._began = self._clock.now()
        try:
            if self._unclear:
                moved = self._resolve(deadline)
            if self._positions:
                self._sink.commit(self._positions, deadline)
                self._committed()
        except Unclear as error:
            self._unclear = True
            self._metrics.transaction("unclear")
            self._failed("the outcome of a commit is unclear", error)
        except Wait as error:
            self._metrics.transaction("aborted")
            self._failed("a commit did not happen", error)
        return moved

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop what belongs to partitions that are no longer ours."""
        gone = set(partitions)
        self._sink.forget(partitions)
        self._items = [item for item in self._items if item.record.partition not in gone]
        self._bytes = sum(item.record.size for item in self._items)
        self._positions = {p: offset for p, offset in self._positions.items() if p not in gone}

    def _resolve(self, deadline: Deadline) -> Positions:
        """Decide what an unclear commit did: a transaction is whole, so one partition at its new position
        says that all of it happened."""
        self._sink.recover(deadline)
        asked = list(self._positions)  # none, when all it was about has been given up since
        committed = self._source.committed(asked, deadline.left(at_least=0.5)) if asked else {}
        self._unclear = False
        if any(committed.get(p) == offset for p, offset in self._positions.items()):
            log.info("an unclear commit had happened")
            self._sink.forget(list(self._positions))
            self._committed()
            return {}
        log.info("an unclear commit had not happened; it is written again")
        moved = {p: committed[p] for p, offset in self._positions.items() if committed.get(p, -1) > offset}
        if moved:
            log.warning("somebody else has committed beyond this replica", positions=moved)
            self.forget(list(moved))
        return moved

    def _committed(self) -> None:
        items, self._items, self._positions, self._bytes = self._items, [], {}, 0
        now = self._clock.now()
        self._failures = self._refusals = 0
        self._ended = now
        self._not_before = now + self._rest(now - self._began)
        self._metrics.transaction("committed")
        self._on_committed(items, now - self._began)

    def _rest(self, took_s: float) -> float:
        policy = self._policy
        return max(policy.gap_s, min(policy.interval_s, policy.rests * took_s))

    def _failed(self, what: str, error: Wait) -> None:
        self._refusals = self._refusals + 1 if isinstance(error, Refused) else 0
        if self._refusals >= REFUSALS_MAX:
            raise Unreachable(str(error)) from error
        first_s, most_s = BACKOFF_S
        pause_s = min(most_s, first_s * 2 ** min(self._failures, 10))
        self._failures += 1
        self._not_before = self._clock.now() + pause_s
        log.warning(what, error=str(error), again_in_s=pause_s)
