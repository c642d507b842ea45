"""Equal events share one answer: the first is computed, and those that come before it is durable follow it.

Pure bookkeeping of which record computes which answer; from the commit on, the cache knows the answer.
"""

from __future__ import annotations

from streamer.records import Cached, Outcome
from streamer.slices import Row


class Sharing:
    """Which record computes the answer of a content key."""

    def __init__(self) -> None:
        self._leaders: dict[bytes, Row] = {}

    def lead(self, row: Row) -> None:
        """This record is computed; equal ones follow it from now on."""
        self._leaders[row.columns.content_keys[row.at]] = row

    def follow(self, row: Row) -> Cached | bool:
        """The answer, when an equal record has it already; True when an equal record computes it; else False."""
        leader = self._leaders.get(row.columns.content_keys[row.at])
        if leader is None:
            return False
        if answer := leader.columns.answers[leader.at]:
            return Cached(answer)
        leader.columns.followers.setdefault(leader.at, []).append(row)
        return True

    def answered(self, leader: Row, outcome: Outcome) -> list[Row]:
        """The records that followed `leader`, which has its outcome now. They share its answer. After a rejection they
        must be tried by themselves: what failed the leader (memory, say) may not fail them."""
        followers = leader.columns.followers.pop(leader.at, [])
        if not isinstance(outcome, bytes) or leader.columns.gone:
            self.end(leader)  # a lane that is gone never becomes durable
        return followers

    def end(self, leader: Row) -> None:
        """The answer is durable, or will not come: equal records look elsewhere."""
        key = leader.columns.content_keys.get(leader.at)
        if key is not None and self._leaders.get(key) == leader:
            del self._leaders[key]

    def forget(self) -> None:
        """Partitions were given up: their records lead only while a record of another partition follows."""
        self._leaders = {
            key: row
            for key, row in self._leaders.items()
            if not row.columns.gone or (row.outcome is None and row.columns.followers.get(row.at))
        }
