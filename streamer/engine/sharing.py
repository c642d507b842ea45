"""Equal events share one answer: the first is computed, and those that come before it is durable follow it.

Pure bookkeeping of which item computes which answer; from the commit on, the cache knows the answer.
"""

from __future__ import annotations

from streamer.records import Item, Predicted, Rejected


class Sharing:
    """Which item computes the answer of a content key."""

    def __init__(self) -> None:
        self._leaders: dict[bytes, Item] = {}

    def lead(self, item: Item) -> None:
        """This item is computed; equal ones follow it from now on."""
        if item.cache_key is not None:
            self._leaders[item.cache_key] = item

    def follow(self, item: Item) -> Predicted | bool:
        """The answer, when an equal item has it already; True when an equal item computes it; else False."""
        leader = self._leaders.get(item.cache_key or b"")
        if leader is None:
            return False
        if isinstance(leader.outcome, Predicted):
            return Predicted(leader.outcome.answer, cached=True)
        if leader.followers is None:
            leader.followers = []
        leader.followers.append(item)
        return True

    def answered(self, leader: Item, outcome: Predicted | Rejected) -> list[Item]:
        """The items that followed `leader`, which has its outcome now. They share its answer. After a rejection they
        must be tried by themselves: what failed the leader (memory, say) may not fail them."""
        followers, leader.followers = leader.followers, None
        if isinstance(outcome, Rejected) or leader.lane.gone:
            self.end(leader)  # a lane that is gone never becomes durable
        return followers or []

    def end(self, leader: Item) -> None:
        """The answer is durable, or will not come: equal items look elsewhere."""
        if leader.cache_key is not None and self._leaders.get(leader.cache_key) is leader:
            del self._leaders[leader.cache_key]

    def forget(self) -> None:
        """Partitions were given up: their items lead only while an item of another partition follows."""
        self._leaders = {
            key: item
            for key, item in self._leaders.items()
            if not item.lane.gone or (item.outcome is None and item.followers)
        }
