"""What becomes durable together: predictions, dead letters and offsets; then the cache is filled, then counts grow."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from streamer.clock import Clock, Deadline
from streamer.errors import Refused, Unclear, Unreachable, Wait
from streamer.ports import Codec, Committer, OnCommitted, Sink, Source
from streamer.records import Positions
from streamer.slices import Rows
from streamer.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

REFUSALS_MAX = 10  # over five seconds of growing pauses: an election of leaders is no missing topic
BACKOFF_S = (0.05, 1.0)
LOOK_S = 0.003
"""How soon to look whether a commit in progress has ended."""
WAIT_S = 0.1


class CommitPolicy(msgspec.Struct, frozen=True):
    """When to commit. After a commit the next one waits `rests` times as long as the last took, and `gap_s` at least.
    Half of that time ahead, ready outcomes go to the broker. Back to back, the broker is still completing the last
    transaction, answers CONCURRENT_TRANSACTIONS, and all take many times as long. A commit waits no longer than
    `interval_s` (or `gap_s`, if that is more); under backlog it gathers outcomes for that long. One commit may take
    `timeout_s`."""

    interval_s: float = 0.1
    gap_s: float = 0.006
    rests: float = 1.0
    timeout_s: float = 5.0


class CheckpointParts(msgspec.Struct, frozen=True):
    """What a checkpoint drives."""

    source: Source
    sink: Sink
    committer: Committer
    codec: Codec
    clock: Clock
    metrics: Metrics


class Begun(msgspec.Struct):
    """The contents of one commit, from its begin until it is known to have happened."""

    rows: list[Rows]
    count: int
    positions: Positions
    size: int
    at: float


class Checkpoint:
    """The outcomes that are released and not durable yet: those that gather, and those of the commit in progress.

    After a failed commit the same messages are written again, without a second run on the GPU. While a commit is
    unclear nothing may be added, so that little is in doubt.
    """

    def __init__(self, parts: CheckpointParts, policy: CommitPolicy, on_committed: OnCommitted) -> None:
        self._parts = parts
        self._policy = policy
        self._on_committed = on_committed
        self._gathered = Begun([], 0, {}, 0, 0.0)
        self._begun: Begun | None = None
        self._out = False
        self._unclear = False
        self._not_before = 0.0
        self._open_at = 0.0
        self._lead_s = 0.0  # how long before its commit a transaction opens: readers wait if we die in it
        self._ahead = 0  # of the gathered records, how many the broker has
        self._ended = 0.0
        self._failures = 0
        self._refusals = 0

    def __len__(self) -> int:
        """Records that are answered and not durable."""
        return self._gathered.count + (self._begun.count if self._begun else 0)

    @property
    def bytes(self) -> int:
        """Bytes of their keys and values; those of a slice count from its last record on."""
        return self._gathered.size + (self._begun.size if self._begun else 0)

    @property
    def clear(self) -> bool:
        """Whether released records may be added."""
        return not self._unclear

    def add(self, released: Sequence[Rows]) -> None:
        """Add what the ledger released, in order."""
        gathered = self._gathered
        if messages := [run for rows in released for run in self._parts.codec.encode(rows)]:
            self._parts.sink.write(messages)
        for rows in released:
            gathered.rows.append(rows)
            gathered.count += len(rows)
            gathered.positions[rows.columns.partition] = rows.position
            if rows.size:
                gathered.size += rows.size
                rows.columns.let_go()  # the sink has what is published

    def due_in(self, now: float, backlog_items: int) -> float | None:
        """Seconds until something is due: to begin a commit, or to look after the one in progress. 0 or less: now.
        None: there is nothing to commit.

        `backlog_items`: how many records make it worth to gather for the whole interval.
        """
        if self._out:
            return LOOK_S
        if not self._gathered.positions and not self._begun and self.clear:
            return None
        at = self._due_at(backlog_items)
        if self._ahead < self._gathered.count and self.clear:
            at = max(self._open_at, at - self._lead_s)
        return at - now

    def _due_at(self, backlog_items: int) -> float:
        backlog = self._gathered.count >= backlog_items
        return max(self._not_before, self._ended + self._policy.interval_s) if backlog else self._not_before

    def advance(self, backlog_items: int, timeout_s: float) -> Positions:
        """Do what is due: note the end of a commit, begin one, or hand over the outcomes that gather for the next.

        Returns and raises as `begin`; `timeout_s` is that of a commit.
        """
        self.look()
        wait_s = self.due_in(self._parts.clock.now(), backlog_items)
        if self._out or wait_s is None or wait_s > 0:
            return {}
        deadline = Deadline(self._parts.clock, timeout_s)
        if self._due_at(backlog_items) <= self._parts.clock.now():
            return self.begin(deadline)
        try:
            self._parts.sink.hand_over(deadline)
            self._ahead = self._gathered.count
        except Wait as error:
            self._take()  # what the sink has begun is what this is about
            self._failed(error)
        return {}

    def begin(self, deadline: Deadline) -> Positions:
        """Begin to commit everything that was added; `look` tells how it ended. An error that time may cure is not
        raised: the next call tries again.

        Returns the committed offsets of partitions that another process has moved: the engine must forget these
        partitions and read on from there. Nearly always empty.

        Raises:
            Exit: no further try will help.
        """
        moved: Positions = {}
        try:
            if self._unclear:
                moved = self._resolve(deadline)
            begun = self._take()
            if begun.positions:
                self._parts.committer.start(self._parts.sink.begin(begun.positions, deadline), deadline)
                self._out = True
        except Wait as error:
            self._failed(error)
        return moved

    def look(self, timeout_s: float = 0.0) -> None:
        """Note the end of the commit in progress; waits up to `timeout_s` for it.

        Raises:
            Exit: no further try will help.
        """
        if not self._out:
            return
        ended = True
        try:
            ended = self._parts.committer.ended(timeout_s)
            if ended:
                self._committed()
        except Wait as error:
            self._failed(error)
        finally:
            self._out = not ended

    def wait(self) -> None:
        """Wait until the commit in progress has ended, by its deadline at the latest: nothing may change under it."""
        while self._out:
            self.look(WAIT_S)

    def commit(self, deadline: Deadline) -> Positions:
        """Commit everything added, and wait for the end of it: `begin`, in one piece."""
        self.wait()
        if deadline.passed():
            return {}  # what is begun now could only end in doubt
        moved = self.begin(deadline)
        self.wait()
        return moved

    def forget(self, partitions: Sequence[int]) -> None:
        """Drop the outcomes of partitions that are no longer ours, once the commit in progress has ended.

        Raises:
            Exit: how it ended.
        """
        try:
            self.wait()
        finally:
            gone = set(partitions)
            self._parts.sink.forget(partitions)
            self._gathered, self._ahead = _without(self._gathered, gone), 0
            self._begun = _without(self._begun, gone) if self._begun else None

    def _take(self) -> Begun:
        """The contents of the next commit: what the last one left undone, then everything that gathered."""
        gathered, self._gathered, self._ahead = self._gathered, Begun([], 0, {}, 0, 0.0), 0
        if self._begun:
            gathered.rows = self._begun.rows + gathered.rows
            gathered.count += self._begun.count
            gathered.positions = self._begun.positions | gathered.positions
            gathered.size += self._begun.size
        gathered.at = self._parts.clock.now()
        self._begun = gathered if gathered.positions else None
        return gathered

    def _resolve(self, deadline: Deadline) -> Positions:
        """Decide what an unclear commit did. A transaction happens as a whole, so one partition before its new offset
        says that none of it happened."""
        self._parts.sink.recover(deadline)
        positions = self._begun.positions if self._begun else {}  # none, when all of them have been given up since
        committed = self._parts.source.committed(list(positions), deadline.left(at_least=0.5)) if positions else {}
        self._unclear = False
        if positions and all(committed.get(p, -1) >= offset for p, offset in positions.items()):
            log.info("an unclear commit had happened")
            self._committed()
            return {p: committed[p] for p, offset in positions.items() if committed[p] > offset}
        log.info("an unclear commit had not happened; it is written again")
        moved = {p: committed[p] for p, offset in positions.items() if committed.get(p, -1) >= offset}
        if moved:
            log.warning("somebody else has committed beyond this replica", positions=moved)
            self.forget(list(moved))
        return moved

    def _committed(self) -> None:
        self._parts.sink.confirm()
        begun, self._begun = self._begun, None
        self._failures = self._refusals = 0
        self._ended = now = self._parts.clock.now()
        if begun is None:
            return
        rest_s = self._rest(now - begun.at)
        self._lead_s = rest_s / 2
        self._open_at, self._not_before = now + self._lead_s, now + rest_s
        self._parts.metrics.transaction("committed")
        self._on_committed(begun.rows, now - begun.at)

    def _rest(self, took_s: float) -> float:
        policy = self._policy
        return max(policy.gap_s, min(policy.interval_s, policy.rests * took_s))

    def _failed(self, error: Wait) -> None:
        if isinstance(error, Unclear):
            self._unclear = True
            result, what = "unclear", "the outcome of a commit is unclear"
        else:
            result, what = "aborted", "a commit did not happen"
        self._parts.metrics.transaction(result)
        self._refusals = self._refusals + 1 if isinstance(error, Refused) else 0
        if self._refusals >= REFUSALS_MAX:
            raise Unreachable(str(error)) from error
        first_s, most_s = BACKOFF_S
        pause_s = min(most_s, first_s * 2 ** min(self._failures, 10))
        self._failures += 1
        self._not_before = self._open_at = self._parts.clock.now() + pause_s
        self._ahead = 0
        log.warning(what, error=str(error), again_in_s=pause_s)


def _without(begun: Begun, gone: set[int]) -> Begun:
    rows = [rows for rows in begun.rows if rows.columns.partition not in gone]
    return Begun(
        rows,
        sum(map(len, rows)),
        {p: offset for p, offset in begun.positions.items() if p not in gone},
        sum(some.size for some in rows),
        begun.at,
    )
