"""The seams of the engine, on one page. Everything behind a network or a GPU has a fake in
`streamer.testing`, and `tests/contracts` runs one suite on both.

All methods are called from the owner thread. None may block longer than the time it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streamer.clock import Deadline
from streamer.records import Messages, Positions, Rejected
from streamer.slices import Batch, BatchResult, Row, Rows, Slice

Partitions = Sequence[int]
Commit = Callable[[], None]
"""The part of a commit that waits for the broker; may be called on any thread, once."""


class Rebalance(Protocol):
    """What the engine does when the group moves partitions; called from inside `Source.poll` and `close`."""

    def assigned(self, partitions: Partitions) -> None:
        """These partitions are ours from now on, from their committed offsets."""

    def revoked(self, partitions: Partitions) -> None:
        """These partitions are still ours until this returns: finish and commit what is in flight."""

    def lost(self, partitions: Partitions) -> None:
        """These partitions belong to another member already: drop what is in flight, commit nothing."""


class Source(Protocol):
    """Where records come from."""

    def subscribe(self, rebalance: Rebalance) -> None:
        """Join the group."""

    def poll(self, records_max: int, timeout_s: float) -> list[Slice]:
        """Up to `records_max` records, a slice a partition, in offset order; waits for the first, then takes what is
        there.

        Zero records: nothing is taken, only the group is served. Raises `Exit` when the topic cannot be read.
        """

    def group(self) -> Any:
        """The membership as of the last poll, which fences a commit. Raises `Wait` while there is none."""

    def committed(self, partitions: Partitions, timeout_s: float) -> Positions:
        """The committed offsets, without those of open transactions; a partition without one is absent. Raises
        `Wait`."""

    def commit(self, positions: Positions) -> None:
        """Begin a commit outside a transaction (at-least-once), without waiting for it. Raises `Wait`."""

    def rewind(self, positions: Positions) -> None:
        """Read these partitions again from these positions."""

    def lag(self) -> dict[int, int]:
        """Records between each assigned partition's position and its end, as last heard from the broker."""

    def close(self) -> None:
        """Leave the group."""


class Sink(Protocol):
    """Where outcomes go. A message that was written stays with the sink until `confirm` or `forget`."""

    def write(self, messages: Sequence[Messages]) -> None:
        """Take messages in order. At-least-once publishes as soon as it can, exactly-once at the commit."""

    def hand_over(self, deadline: Deadline) -> None:
        """Send what was written so far to the broker, ahead of the commit that makes it visible.

        Raises as `begin` does.
        """

    def begin(self, positions: Positions, deadline: Deadline) -> Commit:
        """Hand over everything written so far. Returns a call that makes it and `positions` durable.

        Until that call has ended only `write` and `serve` may be called; after it `confirm` must be called.

        Raises, as does the call:
            Aborted: nothing happened; begin again (`Refused`: in vain, as long as the broker refuses).
            Unclear: unknown; call `recover`, look at `Source.committed()`, then `confirm` or `begin` again.
            Exit: another process has taken this replica's place.
        """

    def confirm(self) -> None:
        """The call has succeeded: let go of its messages. Raises `Wait` when the offsets are not durable yet."""

    def recover(self, deadline: Deadline) -> None:
        """After `Unclear`: make a new producer, which fences late requests of the old one. Raises `Wait`."""

    def serve(self) -> None:
        """Serve the client's callbacks, which would pile up while nothing is sent. May be called at any time."""

    def forget(self, partitions: Partitions) -> None:
        """Drop what was written for these source partitions and not confirmed."""

    def close(self, deadline: Deadline) -> None:
        """Give the connection back."""


class Committer(Protocol):
    """Makes one commit at a time while the owner thread goes on."""

    def start(self, commit: Commit, deadline: Deadline) -> None:
        """Begin the call. Only while no other is in progress."""

    def ended(self, timeout_s: float) -> bool:
        """Whether the call has ended; waits up to `timeout_s` for it.

        Raises what the call raised, and `Unclear` when it has not returned by its deadline.
        """


class Cache(Protocol):
    """Answers by content key. Never raises: a cache that fails is a cache that misses."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """One answer (JSON) or None a key, in order; one round trip at most."""

    def put_many(self, answers: Sequence[tuple[bytes, bytes]]) -> None:
        """Remember answers that are durable."""

    def circuit(self) -> tuple[str, int]:
        """State of the breaker (closed, half-open, open), and the errors so far."""

    def close(self) -> None:
        """Give the connection back."""


class FeatureStore(Protocol):
    """Features of entities. Never raises: without features they are empty."""

    def read_many(self, rows: Sequence[Row], entities: Sequence[str]) -> list[tuple[Row, Exception]]:
        """Fill in the columns `features` and `as_of` for these records, whose events are about these entities. Returns
        the records whose event is at fault, with the error.

        One round trip."""


class Runner(Protocol):
    """The GPU: at most `slots` batches are out, one running and the others ready."""

    slots: int

    def out(self) -> int:
        """Batches submitted and not yet handed back."""

    def submit(self, batch: Batch) -> None:
        """Queue a batch; only while `out() < slots`."""

    def finished(self, timeout_s: float) -> list[BatchResult]:
        """Batches that are done, in the order of submission; waits up to `timeout_s` for the first one.

        Raises the error that ended the runner.
        """

    def close(self, deadline: Deadline) -> None:
        """Stop after the running batch."""


class Codec(Protocol):
    """Bytes to models and back."""

    def decode(self, rows: Rows) -> list[tuple[Row, Rejected]]:
        """Fill in the events of these records. Returns the records that have none, with the reason."""

    def encode(self, rows: Rows) -> list[Messages]:
        """The messages of settled records, in order by topic; a skipped one has none."""


OnCommitted = Callable[[Sequence[Rows], float], None]
"""Records that are durable now, and the seconds that their commit took."""
