"""A consumer group as the broker keeps it: members, generations, who owns what, positions stable and pending.

Pure: it is told the time. Both protocols are cooperative, so a partition moves only when its owner has let go of it
or is no member any more. Checked against a real broker by `tests/integration/test_simulation_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from confluent_kafka import KafkaError

SESSION_S = 6.0
MAX_POLL_S = 300.0
NOBODY = ("", -1)
"""The membership of a client that has none. A classic group takes transactional commits from it all the same."""


class Refusal(Exception):
    """The broker's answer is an error code."""

    def __init__(self, code: int) -> None:
        super().__init__(KafkaError(code).name())
        self.code = code


class Client(Protocol):
    """What a group sees of a consumer: its heartbeats come from a thread of the client's own."""

    member_id: str
    owned: set[int]
    polled_at: float

    def reachable(self) -> bool:
        """Whether requests and answers get through: its process runs and its line is up."""

    def waits(self) -> bool:
        """Whether a rebalance callback has not been served yet."""

    def told(self, generation: int, revoked: set[int], assigned: set[int]) -> None:
        """The group has gone on, with this change for the client."""

    def expelled(self) -> None:
        """It is no member any more."""


class Member:
    """One member; `owned` is what nobody else may be given."""

    def __init__(self, client: Client, now: float) -> None:
        self.client = client
        self.seen_at = now
        self.owned: set[int] = set()
        self.epoch = -1  # KIP-848: its own; classic: that of the last answer
        self.since: dict[int, int] = {}  # KIP-848: the epoch that each of its partitions came with
        self.joined = False
        self.revoking = False
        self.answer: tuple[int, set[int], set[int]] | None = None


class Group:
    """One group over one topic. `protocol` is that of the client: classic or consumer (KIP-848)."""

    def __init__(self, partitions: int, protocol: str) -> None:
        self.generation = 0
        self.members: dict[str, Member] = {}
        self.clients: list[Client] = []
        self.positions: dict[int, int] = {}
        self.pending: dict[int, dict[int, int]] = {}  # producer id -> positions of its open transaction
        self._partitions = partitions
        self._turn = self._turn_classic if protocol == "classic" else self._turn_consumer
        self._stale = KafkaError.ILLEGAL_GENERATION if protocol == "classic" else KafkaError.STALE_MEMBER_EPOCH
        self._joining_since: float | None = None
        self._joins = 0

    # -- membership

    def turn(self, now: float) -> None:
        """What heartbeats bring about: sessions end, members learn, partitions move."""
        for member_id, member in list(self.members.items()):
            client = member.client
            if client.reachable() and now - client.polled_at <= MAX_POLL_S:
                member.seen_at = now
            elif now - member.seen_at > SESSION_S:
                self._remove(member_id, now)
        for client in self.clients:
            if client.reachable() and client.member_id not in self.members:
                if client.member_id:
                    client.expelled()
                elif not client.waits() and now - client.polled_at <= MAX_POLL_S:
                    self._join(client, now)
        self._turn(now)

    def leave(self, client: Client, now: float) -> None:
        """The client is closed."""
        self.clients.remove(client)
        if client.member_id in self.members:
            self._remove(client.member_id, now)

    def let_go(self, client: Client, now: float) -> None:
        """The client has served a revoke, and tells the group."""
        member = self.members.get(client.member_id)
        if member is not None:
            member.owned &= client.owned
            member.since = {number: epoch for number, epoch in member.since.items() if number in member.owned}
            member.revoking = False
            self._begin(now)

    def check(self, member_id: str, generation: int, partitions: Iterable[int]) -> None:
        """Whether this membership may commit these partitions.

        Raises:
            Refusal: it is not that of a member now. KIP-848: an older epoch is good for what was its own then, and
            still is (KIP-1251).
        """
        classic = self._turn == self._turn_classic
        if (member_id, generation) == NOBODY and (classic or not self.members):
            return
        member = self.members.get(member_id)
        if member is None:
            raise Refusal(KafkaError.UNKNOWN_MEMBER_ID)
        if generation == member.epoch:
            return
        kept = all(member.since.get(partition, generation + 1) <= generation for partition in partitions)
        if classic or generation > member.epoch or not kept:
            raise Refusal(self._stale)

    def _join(self, client: Client, now: float) -> None:
        self._joins += 1
        client.member_id = f"member-{self._joins}"
        self.members[client.member_id] = Member(client, now)
        self._begin(now)

    def _remove(self, member_id: str, now: float) -> None:
        del self.members[member_id]
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Membership has changed."""
        if self._turn == self._turn_consumer:
            self.generation += 1
        elif self._joining_since is None:
            self._joining_since = now

    def _turn_classic(self, now: float) -> None:
        members = self.members
        if self._joining_since is not None:
            for member_id, member in list(members.items()):
                client = member.client
                if member.joined or member.answer is not None:
                    continue
                if client.reachable() and not client.waits():
                    member.joined, member.owned = True, set(client.owned)
                elif now - self._joining_since > MAX_POLL_S:
                    del members[member_id]
            if members and all(member.joined for member in members.values()):
                self._synchronise()
            elif not members:
                self._joining_since = None
        for member in members.values():
            if member.answer is not None and member.client.reachable() and not member.client.waits():
                answer, member.answer = member.answer, None
                member.client.told(*answer)

    def _synchronise(self) -> None:
        """All have joined: the next generation. What moves is only taken now, and given in the one after."""
        self.generation += 1
        self._joining_since = None
        taken = set[int]().union(*(member.owned for member in self.members.values()))
        for member, target in self._targets():
            revoked, gained = member.owned - target, target - taken
            member.owned = (member.owned & target) | gained
            member.epoch, member.joined = self.generation, False
            member.answer = (self.generation, revoked, gained)

    def _turn_consumer(self, now: float) -> None:
        for member, target in self._targets():
            client = member.client
            if not client.reachable() or client.waits() or member.revoking:
                continue
            if revoked := member.owned - target:
                member.revoking = True
                client.told(member.epoch, revoked, set())
                continue
            others = set[int]().union(*(other.owned for other in self.members.values()))
            gained = target - others
            if gained or member.epoch != self.generation:
                member.epoch = self.generation
                member.owned |= gained
                member.since |= dict.fromkeys(gained, member.epoch)
                client.told(member.epoch, set(), gained)

    def _targets(self) -> list[tuple[Member, set[int]]]:
        """Even shares; each member keeps what it has of its own."""
        members = list(self.members.values())
        base, extra = divmod(self._partitions, len(members)) if members else (0, 0)
        free = set(range(self._partitions))
        targets = []
        for number, member in enumerate(members):
            kept = set(sorted(member.owned & free)[: base + (number < extra)])
            free -= kept
            targets.append((member, kept))
        for number, (_, target) in enumerate(targets):
            while len(target) < base + (number < extra):
                target.add(_take(free))
        return targets

    # -- positions

    def commit(self, member_id: str, generation: int, positions: dict[int, int]) -> None:
        """A commit outside a transaction."""
        self.check(member_id, generation, positions)
        self.positions |= positions

    def commit_in_transaction(self, pid: int, member_id: str, generation: int, positions: dict[int, int]) -> None:
        """Positions that count once the producer's transaction is committed."""
        self.check(member_id, generation, positions)
        self.pending.setdefault(pid, {}).update(positions)

    def complete(self, pid: int, committed: bool) -> dict[int, int]:
        """The transaction of this producer has ended; the positions that it moved."""
        positions = self.pending.pop(pid, {})
        if committed:
            self.positions |= positions
            return positions
        return {}

    def stable(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """The positions, as a client that requires stable ones asks for them.

        Raises:
            Refusal: a transaction that would move one of them is open.
        """
        asked = list(partitions)
        if any(partition in positions for positions in self.pending.values() for partition in asked):
            raise Refusal(KafkaError.UNSTABLE_OFFSET_COMMIT)
        return {partition: self.positions.get(partition) for partition in asked}


def _take(free: set[int]) -> int:
    first = min(free)
    free.remove(first)
    return first
