"""Records from Kafka. The only place that knows the consumer: group, rebalance, pausing, offsets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import methodcaller
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from streamer.clock import Clock, Deadline, SystemClock
from streamer.errors import BadConfig, Unreachable, Wait
from streamer.kafka.columns import by_partition, columns
from streamer.kafka.consuming import CLASSIC, DEFAULTS, FATAL, START
from streamer.kafka.membership import Membership
from streamer.kafka.rights import ANSWER_S, Refusal, answers, is_token, refused
from streamer.ports import Rebalance
from streamer.records import Positions
from streamer.slices import Slice

log = structlog.get_logger(__name__)

MakeConsumer = Callable[..., Any]
COMMITTED_TIMEOUT_S = 5.0
PLACE_EVERY_S = 2.0
"""How often a group is asked for an offset that it has not told. A question waits `ANSWER_S` at most, because nothing
else goes on meanwhile."""
NOWHERE = 2**63 - 1
"""The offset of a partition that may not be read yet: every record of it is dropped."""
CAPTURE_EVERY_S = 0.25


class KafkaSource:
    """One consumer in one group, reading one topic. Cooperative assignment, classic or KIP-848."""

    def __init__(
        self,
        client: Mapping[str, str],
        topic: str,
        start: str,
        clock: Clock | None = None,
        make_consumer: MakeConsumer = Consumer,
    ) -> None:
        self._names_itself = client.get("group.protocol") == "consumer"  # KIP-848: a member id proves nothing
        classic = {} if self._names_itself else CLASSIC
        config: dict[str, Any] = {**DEFAULTS, **classic, **client, "error_cb": self._on_error}
        self._client = client
        try:
            self._consumer = make_consumer(config, logger=logging.getLogger("librdkafka"))
        except KafkaException as error:
            raise BadConfig(f"[kafka.client] is not accepted: {error.args[0].str()}") from error
        self._clock = clock or SystemClock()
        self._topic = topic
        self._start = START[start]
        self._rebalance: Rebalance | None = None
        self._positions: Positions = {}  # next offset to read, of every partition that is ours
        self._held: list[Message] = []  # read while `_serve` only served the group
        self._ends: Positions = {}  # where reading last reached the end: past the marks of transactions
        self._unplaced: set[int] = set()  # partitions of ours whose offset is not known yet: paused
        self._place_at = 0.0
        self._paused = False
        self._group: Any = None
        self._capture_at = 0.0
        self._joined = False  # was this ever a member of its group?
        self._refusal = Refusal(self._clock)
        self._membership = Membership(self._consumer, topic, client.get("group.id", ""), self._clock)
        self._failure: BaseException | None = None

    def subscribe(self, rebalance: Rebalance) -> None:
        self._rebalance = rebalance
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._kept(self._on_assign),
            on_revoke=self._kept(self._on_revoke),
            on_lost=self._kept(self._on_lost),
        )

    def poll(self, records_max: int, timeout_s: float) -> list[Slice]:
        slices = []
        if records_max == 0:
            self._serve(timeout_s)
        else:
            self._resume()
            slices = self._take(self._fetch(records_max, timeout_s))
        self._raise_kept()
        if self._unplaced and self._clock.now() >= self._place_at:
            self._place()
        if slices:
            self._refusal.heard()
        else:
            self._heed_refusal()
        if self._positions:
            self._membership.serves()
            self._joined = True
        elif self._membership.spare() and self._rebalance:
            self._joined = True
            self._rebalance.assigned([])  # ready, and idle
        if self._clock.now() >= self._capture_at:
            self._capture_group()
        return slices

    def group(self) -> Any:
        if self._group is None:
            raise Wait("this replica is not a member of its group now")
        return self._group

    def committed(self, partitions: Sequence[int], timeout_s: float) -> Positions:
        try:
            found = self._consumer.committed(self._topic_partitions(partitions), timeout=timeout_s)
        except KafkaException as error:
            raise Wait(f"committed offsets: {error.args[0].str()}") from error
        if broken := [tp for tp in found if tp.error]:
            raise Wait(f"committed offsets: {broken[0].error}")
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def commit(self, positions: Positions) -> None:
        # Asynchronous: waiting would hold up everything for milliseconds. The next commit makes a failed one good, or
        # the same answers come again. Leaving the group and asking for offsets come after it, in order.
        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in positions.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            raise Wait(f"commit: {error.args[0].str()}") from error

    def rewind(self, positions: Positions) -> None:
        for partition, offset in positions.items():
            if partition in self._positions:
                self._consumer.seek(TopicPartition(self._topic, partition, offset))
                self._positions[partition] = offset
        self._held = [message for message in self._held if message.partition() not in positions]

    def lag(self) -> dict[int, int]:
        lags = {}
        for partition, position in self._positions.items():
            if partition in self._unplaced:
                continue
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if end >= 0:
                # A transaction's mark takes an offset and never reaches a reader: by offsets alone one record would
                # always seem unread.
                lags[partition] = max(0, end - max(position, self._ends.get(partition, 0)))
        return lags

    def close(self) -> None:
        self._consumer.close()
        self._raise_kept()

    def _fetch(self, records_max: int, timeout_s: float) -> list[Message]:
        if self._held:
            held, self._held = self._held[:records_max], self._held[records_max:]
            return held
        # consume(n, t) would wait for n messages; so wait for one, then take those that are there already.
        messages: list[Message] = self._consumer.consume(1, timeout_s)
        if messages and records_max > 1:
            messages += self._consumer.consume(records_max - 1, 0)
        return messages

    def _serve(self, timeout_s: float) -> None:
        """Serve the group and stay within max.poll.interval.ms while the engine has no room."""
        if not self._paused:
            self._consumer.pause(self._topic_partitions(self._positions))
            self._paused = True
        self._held += self._consumer.consume(1, timeout_s)

    def _resume(self) -> None:
        if self._paused:
            self._consumer.resume(self._topic_partitions(self._positions.keys() - self._unplaced))
            self._paused = False

    def _take(self, messages: Sequence[Any]) -> list[Slice]:
        if any(map(methodcaller("error"), messages)):
            for message in messages:
                if message.error() is not None:
                    self._notice(message)
            messages = [message for message in messages if message.error() is None]
        slices = []
        for partition, found in by_partition(messages).items():
            if (position := self._positions.get(partition)) is None:
                continue  # read before its partition was given up
            if (read := columns(self._topic, partition, found, position)) is not None:
                self._positions[partition] = read.offsets[-1] + 1
                slices.append(read)
        return slices

    def _notice(self, message: Any) -> None:
        """Handle a message that is no record: the end of a partition, a missing offset, or an error."""
        # An error about the group has no topic, whatever its partition looks like. An error about a topic that may not
        # be read has no partition.
        of_partition = message.topic() is not None and message.error().code() != KafkaError.TOPIC_AUTHORIZATION_FAILED
        if of_partition and message.partition() not in self._positions:
            return  # its partition was given up since
        if message.error().code() == KafkaError._PARTITION_EOF:
            self._ends[message.partition()] = message.offset()
        else:
            self._complain(message.error())

    def _complain(self, error: KafkaError) -> None:
        """Raise for an error that only a person can mend; the client recovers from the rest."""
        kind, cure = FATAL.get(error.code(), (None, ""))
        if kind is not None:
            cure = cure.format(topic=self._topic, group=self._client.get("group.id"))
            raise kind(f"cannot read {self._topic}: {error.str()}; {cure}")
        if error.fatal():
            raise Unreachable(f"cannot read {self._topic}: {error.str()}")
        log.warning("consumer", error=error.str())

    def _on_error(self, error: KafkaError | None) -> None:
        """Handle an error outside of any call. A refusal at the start is final. A client that was admitted goes on
        while any broker admits it: one of them may have a bad certificate. And a member goes on with its token while
        the token server is away."""
        if error is None:  # the client has no error object for some fatal errors; its next call raises
            return
        why = refused(error.str(), self._client)
        if why is None or (is_token(error.str()) and self._joined):
            log.warning("consumer", error=error.str())
        elif self._joined:
            log.warning("a broker does not let us in; going on with the others", why=why)
            self._refusal.said(why)
        elif self._failure is None:
            self._failure = Unreachable(f"cannot read {self._topic}: {why}")

    def _heed_refusal(self) -> None:
        """Raise when one broker has refused us and none has answered a question since: the topic is not merely idle."""
        if self._refusal.doubtful():
            if answers(self._consumer, self._topic):
                self._refusal.heard()
            else:
                log.warning("a broker has refused us, and none answers")
        if why := self._refusal.final():
            raise Unreachable(f"cannot read {self._topic}: {why}")

    def _place(self) -> None:
        """Find out where to read partitions whose offset was not known on assignment.

        An open transaction may hide the committed offset, and its owner may yet commit. The client (librdkafka 2.16)
        takes such an offset for none when partitions move while it asks, and stops asking when the coordinator dies
        then. Only a callback may assign: the client takes any other assignment for the answer to a callback in its
        queue."""
        self._place_at = self._clock.now() + PLACE_EVERY_S
        try:
            if self._start == OFFSET_END and 0 in self._unplaced:
                self._begin_at_ends(ANSWER_S)
            starts = self._starts(sorted(self._unplaced), ANSWER_S)
            for partition, start in starts.items():
                one = TopicPartition(self._topic, partition, start)
                self._consumer.seek(one)
                self._positions[partition] = start
                self._unplaced.discard(partition)
                if not self._paused:
                    self._consumer.resume([one])
        except (Wait, KafkaException) as error:  # a partition that has no leader yet cannot seek
            log.warning("where to read is not known; asking again", partitions=self._unplaced, error=str(error))
        else:
            log.info("where to read is known now", starts=starts, not_yet=self._unplaced)

    def _starts(self, partitions: Sequence[int], timeout_s: float) -> Positions:
        """Where to read: from the committed offset of the group; without one, from the beginning of the partition. A
        partition is absent as long as a group that begins at the ends of its topic has not committed them.

        The replica of partition 0 commits the ends of all partitions at once (`_begin_at_ends`). So a partition that
        has no committed offset, in a group that has one for partition 0, was added later: nothing in it is older."""
        committed = self.committed(partitions, timeout_s) if partitions else {}
        if self._start == OFFSET_END and len(committed) < len(partitions) and not self.committed([0], timeout_s):
            return committed
        return {partition: committed.get(partition, OFFSET_BEGINNING) for partition in partitions}

    def _begin_at_ends(self, timeout_s: float) -> None:
        """Let the group begin at the ends of all partitions, unless it has begun.

        Never within a callback: the client (confluent-kafka 2.16) aborts the process at the next callback of a call in
        which `list_topics` was called."""
        if self.committed([0], timeout_s):
            return
        deadline, ends = Deadline(self._clock, timeout_s), {}
        known = self._consumer.list_topics(self._topic, timeout=deadline.left(at_least=0.1)).topics[self._topic]
        for tp in self._topic_partitions(known.partitions):
            _, ends[tp.partition] = self._consumer.get_watermark_offsets(tp, timeout=deadline.left(at_least=0.1))
        self._commit_and_wait(ends)

    def _capture_group(self) -> None:
        """Remember the membership as of this poll: every rebalance callback that was due has run, so what the
        ledger holds now is ours under it. The broker does not fence a commit with an empty member id at all.

        It is captured after a rebalance and now and then, because the client takes a third of a millisecond to tell it.
        An old one is safe: at worst the broker refuses a commit, and the next capture brings the new one."""
        try:
            group = self._consumer.consumer_group_metadata()
        except RuntimeError:  # a client that closes may have none any more
            return
        self._group = group if self._consumer.memberid() else None
        self._joined = self._joined or (self._group is not None and not self._names_itself)
        self._capture_at = self._clock.now() + CAPTURE_EVERY_S

    def _kept(self, callback: Callable[[Consumer, list[TopicPartition]], None]) -> Callable[..., None]:
        """Keep an exception of a callback until the client has returned: the client does not pass every exception on.
        After an exception no callback runs, because nothing may be committed any more. The client then moves the
        partitions itself."""

        def kept(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if self._failure is not None:
                return
            try:
                callback(consumer, partitions)
            except BaseException as error:
                self._failure = error

        return kept

    def _raise_kept(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        partitions = [tp.partition for tp in assigned]
        try:
            starts = self._starts(partitions, COMMITTED_TIMEOUT_S)
        except Wait as error:
            log.warning("cannot read committed offsets on assignment; asking again", error=str(error))
            starts = {}
        hidden = [partition for partition in partitions if partition not in starts]
        first = starts | dict.fromkeys(hidden, OFFSET_BEGINNING)
        consumer.incremental_assign([TopicPartition(self._topic, p, start) for p, start in first.items()])
        self._capture_at = 0.0
        self._positions.update(starts | dict.fromkeys(hidden, NOWHERE))
        self._unplaced.update(hidden)
        self._place_at = 0.0
        if partitions and (self._paused or hidden):
            consumer.pause(self._topic_partitions(partitions))
        log.info("partitions assigned", partitions=partitions)
        if self._rebalance:
            self._rebalance.assigned(partitions)

    def _commit_and_wait(self, positions: Positions) -> None:
        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in positions.items()]
        try:
            done = self._consumer.commit(offsets=offsets, asynchronous=False)
            failed = next((tp.error for tp in done if tp.error), None)
        except KafkaException as error:
            failed = error.args[0]
        if failed is not None:
            raise Wait(f"cannot commit where this group starts: {failed.str()}")

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        partitions = [tp.partition for tp in revoked]
        # The generation may be newer than at the last poll, and these partitions are ours until this returns.
        self._capture_group()
        if self._rebalance:
            self._rebalance.revoked(partitions)
        self._unassign(consumer, revoked)
        log.info("partitions revoked", partitions=partitions)

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        partitions = [tp.partition for tp in lost]
        if self._rebalance:
            self._rebalance.lost(partitions)
        self._unassign(consumer, lost)
        log.warning("partitions lost: the group went on without this replica", partitions=partitions)

    def _unassign(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        self._capture_at = 0.0
        hidden = self._unplaced.intersection(tp.partition for tp in gone)
        for tp in gone:
            self._positions.pop(tp.partition, None)
            self._ends.pop(tp.partition, None)
        self._unplaced -= hidden
        self._held = [message for message in self._held if message.partition() in self._positions]
        if self._paused or hidden:
            consumer.resume(gone)  # the client remembers a pause: one that comes back would never be read again
        consumer.incremental_unassign(gone)

    def _topic_partitions(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]
