"""The oracle of a run without an end: reads along, and compares each outcome with its input as it comes.

The outcomes of a source partition come in its order, so the predictions that should come and those that do are two
sequences that must be equal, and so are the dead letters. What waits for its other half is all that is kept.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from tests.faults.checker import Input, Outcome, Output, check
from tests.faults.stream import Stream, as_dead_letter, as_input, as_prediction
from tests.services import end_offsets, unique

Lane = tuple[int, Outcome]


class Matcher:
    """Pairs inputs and outcomes. A lane in which something is missing or too much is not followed any further."""

    def __init__(self) -> None:
        self.compared = 0
        self.complaints: Counter[str] = Counter()
        self.examples: list[str] = []
        self._inputs: dict[Lane, deque[Input]] = defaultdict(deque)
        self._outputs: dict[Lane, deque[Output]] = defaultdict(deque)
        self._broken: set[Lane] = set()

    def given(self, one: Input) -> None:
        """An input, in the order of its partition."""
        if one.outcome == "skip":
            self.compared += 1
            return
        lane = (one.place[1], one.outcome)
        self._inputs[lane].append(one)
        self._pair(lane)

    def answered(self, one: Output) -> None:
        """An outcome, in the order of its partition."""
        lane = (one.place[1], one.outcome)
        self._outputs[lane].append(one)
        self._pair(lane)

    def waiting(self) -> int:
        """Inputs and outcomes without their other half, where all was well so far."""
        lanes = (self._inputs.keys() | self._outputs.keys()) - self._broken
        return sum(len(self._inputs[lane]) + len(self._outputs[lane]) for lane in lanes)

    def _pair(self, lane: Lane) -> None:
        inputs, outputs = self._inputs[lane], self._outputs[lane]
        while inputs and outputs and lane not in self._broken:
            given, output = inputs.popleft(), outputs.popleft()
            self.compared += 1
            if given.place != output.place:
                self._broken.add(lane)
                what = "lost" if output.place > given.place else "duplicated or reordered"
                self._complain(what, f"{lane}: {output.place} where {given.place} was due")
            for what in check([given], [output]).complaints if given.place == output.place else ():
                self._complain(what, f"{given.place}: {what}")
        if lane in self._broken:
            inputs.clear()
            outputs.clear()

    def _complain(self, what: str, example: str) -> None:
        self.complaints[what] += 1
        self.examples = [*self.examples, example][:10]


class Follower:
    """Reads a stream's three topics as they grow, on a thread of its own."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._matcher = Matcher()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._reached: dict[tuple[str, int], int] = {}
        self._thread = threading.Thread(target=self._read, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def compared(self) -> int:
        """How many inputs had the outcome that was due."""
        return self._matcher.compared

    def finish(self, timeout_s: float = 180) -> dict[str, int]:
        """Read to where the topics end now; what is wrong, and how often."""
        ends = {
            (topic, number): end
            for topic in (self._stream.source, self._stream.target, self._stream.dead_letters)
            for number, end in end_offsets(self._stream.kafka.bootstrap, topic).items()
        }
        for _ in range(int(timeout_s * 5)):
            if self._error is not None or all(self._reached.get(place, 0) >= end for place, end in ends.items()):
                break
            self._over.wait(0.2)
        if self._error is not None:
            raise self._error
        complaints = dict(self._matcher.complaints)
        if left := self._matcher.waiting():
            complaints["without an outcome, or without an input"] = left
        for example in self._matcher.examples:
            print(example)
        return complaints

    def _read(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # the owner raises it
            self._error = error

    def _follow(self) -> None:
        stream, matcher = self._stream, self._matcher
        consumer = Consumer(
            {
                "bootstrap.servers": stream.kafka.bootstrap,
                "group.id": unique("follower"),
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",  # a reader that jumps would hide a loss
                "log_level": 0,
            }
        )
        topics = (stream.source, stream.target, stream.dead_letters)
        consumer.assign([TopicPartition(t, n, OFFSET_BEGINNING) for t in topics for n in range(stream.partitions)])
        take = {
            stream.source: lambda message: matcher.given(as_input(message)),
            stream.target: lambda message: matcher.answered(as_prediction(message)),
            stream.dead_letters: lambda message: matcher.answered(as_dead_letter(message)),
        }
        while not self._over.is_set():
            for message in consumer.consume(500, timeout=0.2):
                place = (message.topic() or "", message.partition() or 0)
                if not _is_error(message):
                    take[place[0]](message)
                    self._reached[place] = (message.offset() or 0) + 1
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    self._reached[place] = message.offset() or 0  # past the marks of transactions
        consumer.close()


def _is_error(message: Message) -> bool:
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._AUTO_OFFSET_RESET or error.fatal():
        raise KafkaException(error)
    return True
