"""Quix Streams: a sink of our own, which scores and publishes what has gathered at each checkpoint.

Not its first idiom, which is `apply` row by row: that runs the model on one event at a time, and is several times
slower. At least once: a checkpoint flushes the sink, and the sink its producer, before it commits. A checkpoint comes
after four of the model's best batches or 100 ms, for each waits until its outputs are flushed and its positions
committed. As in the fused loop, an output that the broker refuses for good is not noticed.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks import BaseSink

from benchmarks import work
from benchmarks.contestants import common

COMMIT_S = 0.1
BATCHES = 4
POLL_S = 0.02
"""How long it waits for an event before it looks whether a checkpoint is due."""
FLUSH_S = 10.0


class Scores(BaseSink):
    """Gathers keys and values of all partitions; a flush scores and publishes them.

    `BatchingSink` keeps an object for each event and a batch for each partition; this is a little faster.
    """

    def __init__(self, todo: work.Work, bootstrap: str, target: str) -> None:
        super().__init__(on_client_connect_success=lambda: None)
        self._todo, self._target = todo, target
        self._producer = Producer({"bootstrap.servers": bootstrap, **common.PRODUCER})
        self._keys: list[bytes] = []
        self._values: list[bytes] = []

    def add(self, value: bytes, key: bytes, *_: Any, **__: Any) -> None:
        """One event."""
        self._keys.append(key)
        self._values.append(value)

    def flush(self) -> None:
        """Publish the outputs of all that has gathered.

        Raises:
            TimeoutError: the broker has not acknowledged them; then the checkpoint fails.
        """
        keys, values = self._keys, self._values
        self._keys, self._values = [], []
        for first in range(0, len(keys), self._todo.batch_max):
            batch = slice(first, first + self._todo.batch_max)
            for key, output in zip(keys[batch], self._todo.run(values[batch]), strict=True):
                if output is not None:
                    self._producer.produce(self._target, output, key)
            self._producer.poll(0)
        if left := self._producer.flush(FLUSH_S):
            raise TimeoutError(f"quix: {left} outputs are not acknowledged after {FLUSH_S:.0f} s; is the broker there?")


def main() -> None:
    """Serve what the command line says. The application itself ends at SIGTERM."""
    options = common.options()
    todo = work.make(options.work)
    own = {"auto.offset.reset", "enable.auto.commit"}  # it sets these itself
    with TemporaryDirectory(prefix="quix-") as state:
        application = Application(
            options.bootstrap,
            consumer_group=options.group,
            auto_offset_reset="earliest",
            commit_interval=COMMIT_S,
            commit_every=BATCHES * todo.batch_max,
            consumer_extra_config={name: value for name, value in common.CONSUMER.items() if name not in own},
            consumer_poll_timeout=POLL_S,
            state_dir=state,
            loglevel="WARNING",
            auto_create_topics=False,
            use_changelog_topics=False,
        )
        source = application.topic(options.source, key_deserializer="bytes", value_deserializer="bytes")
        application.dataframe(source).sink(Scores(todo, options.bootstrap, options.target))
        application.run()


if __name__ == "__main__":
    main()
