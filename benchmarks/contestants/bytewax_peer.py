"""Bytewax: batches as its Kafka source reads them, one `flat_map_batch`, its Kafka sink.

At least once, by Bytewax's own recovery store: it holds the offsets of an epoch once all outputs of it are flushed, and
a restart repeats what came after the last epoch, here 10 s at most. Nothing is committed to the consumer group; where
the group stands is only read, at the start. The store costs nothing that shows; it ends with the run, since no run
of the benchmark is resumed.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from confluent_kafka import OFFSET_STORED

from benchmarks import work
from benchmarks.contestants import common

Event = KafkaSourceMessage[bytes, bytes]
Answer = KafkaSinkMessage[bytes, bytes]


class Source(KafkaSource):
    """Bytewax's Kafka source, which ends at SIGTERM as if its partitions had ended: then all is flushed."""

    def __init__(self, stop: common.Stop, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._stop = stop

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Any:
        """One partition."""
        part = super().build_part(step_id, for_part, resume_state)
        read = part.next_batch

        def next_batch() -> list[Any]:
            if self._stop:
                raise StopIteration
            return read()

        part.next_batch = next_batch
        return part


def dataflow(bootstrap: str, source: str, target: str, group: str, todo: work.Work) -> Dataflow:
    """Source, work and sink. A source that reads more than the model's best batch at once is not faster."""

    def score(events: list[Event]) -> list[Answer]:
        outputs = todo.run([event.value for event in events])
        return [
            KafkaSinkMessage(event.key, output)
            for event, output in zip(events, outputs, strict=True)
            if output is not None
        ]

    flow = Dataflow("bench")
    reader = Source(
        common.Stop(),
        [bootstrap],
        [source],
        starting_offset=OFFSET_STORED,
        add_config={**common.CONSUMER, "group.id": group},
        batch_size=todo.batch_max,
    )
    scored = op.flat_map_batch("score", op.input("source", flow, reader), score)
    op.output("target", scored, KafkaSink([bootstrap], target, add_config=common.PRODUCER))
    return flow


def main() -> None:
    """Serve what the command line says. More than one worker thread is slower: they share one interpreter lock."""
    options = common.options()
    flow = dataflow(options.bootstrap, options.source, options.target, options.group, work.make(options.work))
    with TemporaryDirectory(prefix="bytewax-") as store:
        init_db_dir(Path(store), 1)
        cli_main(flow, recovery_config=RecoveryConfig(store))


if __name__ == "__main__":
    main()
