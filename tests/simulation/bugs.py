"""Mistakes that engines of this kind make, planted in a process of a schedule to see that the verdict notices.

Production code is not touched: methods of one process's parts are replaced when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from confluent_kafka import KafkaException

from streamer.clock import Deadline
from streamer.errors import Unclear, Wait
from streamer.slices import Row, Rows
from tests.simulation.group import NOBODY
from tests.simulation.process import Process

Bug = Callable[[Process], None]


def positions_ahead(process: Process) -> None:
    """Commits where the consumer stands, which has read on while the model ran."""
    begin = process.sink.begin

    def ahead(positions: Any, deadline: Deadline) -> Any:
        return begin({p: max(offset, process.source._positions.get(p, 0)) for p, offset in positions.items()}, deadline)

    process.sink.begin = ahead


def positions_behind(process: Process) -> None:
    """Commits the offset of the last record instead of the next."""
    begin = process.sink.begin
    process.sink.begin = lambda positions, deadline: begin({p: o - 1 for p, o in positions.items()}, deadline)


def fresh_membership(process: Process) -> None:
    """Asks the client for its membership at the commit, instead of keeping that of the poll; it may be nobody's."""
    process.source.group = lambda: process.consumer.consumer_group_metadata()


def no_membership(process: Process) -> None:
    """Commits positions without saying who does."""
    process.source.group = lambda: NOBODY


def same_producer(process: Process) -> None:
    """Ends what is unclear with the producer that it has, as the client's manual suggests, and goes on with it."""
    sink, recover = process.sink, process.sink.recover

    def again(deadline: Deadline) -> None:
        producer = sink._producer
        sink._disturbed = False
        if producer is None:
            return recover(deadline)
        end = producer.commit_transaction if producer._state == "ending" else producer.abort_transaction
        try:
            end(deadline.left(at_least=0.5))
        except KafkaException as error:
            if error.args[0].fatal() or error.args[0].code() == error.args[0]._STATE:
                return recover(deadline)
            raise Unclear("again") from error
        return None

    sink.recover = again


def undisturbed(process: Process) -> None:
    """Takes no notice of requests that were sent twice under a commit that went well."""
    process.sink._once = nullcontext
    process.sink._config["error_cb"] = lambda error: None


def taken_for_committed(process: Process) -> None:
    """Takes an unclear commit for done."""
    checkpoint, sink = process.engine._checkpoint, process.sink

    def resolve(deadline: Deadline) -> dict[int, int]:
        sink.recover(deadline)
        checkpoint._unclear = False
        checkpoint._committed()
        return {}

    checkpoint._resolve = resolve  # type: ignore[method-assign]


def taken_for_aborted(process: Process) -> None:
    """Takes an unclear commit for not done, and writes all of it again."""
    checkpoint, sink = process.engine._checkpoint, process.sink

    def resolve(deadline: Deadline) -> dict[int, int]:
        sink.recover(deadline)
        checkpoint._unclear = False
        return {}

    checkpoint._resolve = resolve  # type: ignore[method-assign]


def out_of_order(process: Process) -> None:
    """Releases what is settled, whatever is open before it."""
    ledger = process.engine._ledger

    released: set[Row] = set()

    def release() -> list[Rows]:
        found = []
        for lane in ledger._lanes.values():
            for columns in lane.slices:
                settled = [row for row in columns.rows() if row.outcome is not None and row not in released]
                released.update(settled)
                found += [Rows(columns, range(row.at, row.at + 1)) for row in settled]
            while lane.slices and all(row in released for row in lane.slices[0].rows()):
                lane.slices.popleft()
        ledger._count -= sum(map(len, found))
        return found

    ledger.release = release  # type: ignore[method-assign]


def keeps_what_is_lost(process: Process) -> None:
    """Goes on with what it holds of partitions that somebody else owns."""
    process.engine.lost = lambda partitions: None  # type: ignore[method-assign]


def keeps_what_is_revoked(process: Process) -> None:
    """Lets go of partitions without a look at what is in flight of them."""
    process.engine.revoked = lambda partitions: None  # type: ignore[method-assign]


def keeps_what_was_handed_over(process: Process) -> None:
    """Forgets a partition, but not what the open transaction holds of it."""
    sink = process.sink

    def forget(partitions: Any) -> None:
        sink._messages = [message for message in sink._messages if message.partition not in partitions]

    sink.forget = forget


def unstable_positions(process: Process) -> None:
    """Starts where the group stands, though a transaction that moves it is open or being completed."""
    group = process.broker.group
    consumer = process.consumer

    class Eager:
        def __getattr__(self, name: str) -> Any:
            return getattr(group, name)

        def stable(self, asked: Any) -> dict[int, int | None]:
            return {partition: group.positions.get(partition) for partition in asked}

    consumer._group = Eager()


def hidden_positions(process: Process) -> None:
    """Starts anew where the group does not say its position at once: a transaction that is open may only hide it."""
    source, starts = process.source, process.source._starts

    def believed(partitions: Any, timeout_s: float) -> dict[int, int]:
        try:
            return starts(partitions, 0.01)
        except Wait:
            return dict.fromkeys(partitions, source._start)

    source._starts = believed  # type: ignore[method-assign]


def reads_everything(process: Process) -> None:
    """Reads what is open and what was aborted."""
    process.consumer._committed_only = False


def confirms_early(process: Process) -> None:
    """Lets go of messages when the commit begins, so that a second try writes positions alone."""
    sink, begin = process.sink, process.sink.begin

    def begun(positions: Any, deadline: Deadline) -> Any:
        commit = begin(positions, deadline)
        sink._begun = []
        return commit

    sink.begin = begun


BUGS: Mapping[str, Bug] = {
    function.__name__.replace("_", " "): function
    for function in (
        positions_ahead,
        positions_behind,
        fresh_membership,
        no_membership,
        same_producer,
        undisturbed,
        taken_for_committed,
        taken_for_aborted,
        out_of_order,
        keeps_what_is_lost,
        keeps_what_is_revoked,
        keeps_what_was_handed_over,
        unstable_positions,
        hidden_positions,
        reads_everything,
        confirms_early,
    )
}
