"""Dead letters as a whole: what the log says, and when to stop before a whole topic turns into dead letters."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from streamer.errors import BadData
from streamer.records import Rejected
from streamer.slices import Row, Rows
from streamer.wire import headers

log = structlog.get_logger(__name__)


def log_reasons(rejected: Sequence[tuple[Row, Rejected]]) -> None:
    """One line a reason, about the first record that has it: a broken producer must not flood the log."""
    first: dict[str, tuple[Row, Rejected]] = {}
    counts: dict[str, int] = {}
    for row, outcome in rejected:
        first.setdefault(outcome.reason, (row, outcome))
        counts[outcome.reason] = counts.get(outcome.reason, 0) + 1
    for known, (row, outcome) in first.items():
        trace = headers.last(row.columns.record(row.at).headers, headers.TRACEPARENT) or b""
        log.warning(
            "dead letters",
            reason=known,
            count=counts[known],
            partition=row.partition,
            offset=row.offset,
            error=outcome.message,
            trace_id=trace.decode() if headers.TRACE.fullmatch(trace) else None,
        )


class DeadLetterLimits:
    """Notices when a partition turns into dead letters: then more is wrong than the records."""

    WINDOW = 1_000
    SEEN_MIN = 100

    def __init__(self, ratio_max: float, run_max: int) -> None:
        self._ratio_max = ratio_max
        self._run_max = run_max
        self._seen: dict[int, tuple[float, float, int]] = {}  # partition -> records, dead among them, dead in a row

    def observe(self, rows: Rows) -> None:
        """Count what a partition released, and log its dead letters.

        Raises:
            BadData: a limit is passed; none of these records has been published.
        """
        rejected = [
            (Row(rows.columns, at), outcome) for at, outcome in rows.rare().items() if isinstance(outcome, Rejected)
        ]
        partition, start = rows.columns.partition, rows.at[0]
        for row, outcome in rejected:
            self._count(partition, row.at - start)
            seen, dead, in_row = self._seen[partition]
            self._seen[partition] = (seen + 1, dead + 1, in_row + 1)
            self._check(row, outcome)
            start = row.at + 1
        self._count(partition, rows.at[-1] + 1 - start)
        log_reasons(rejected)

    def _count(self, partition: int, good: int) -> None:
        """Count records that are no dead letters."""
        seen, dead, in_row = self._seen.get(partition, (0.0, 0.0, 0))
        seen += good
        while seen >= self.WINDOW:
            seen, dead = seen / 2, dead / 2
        self._seen[partition] = (seen, dead, 0 if good else in_row)

    def forget(self, partitions: Sequence[int]) -> None:
        """Start again with partitions that may come back."""
        for partition in partitions:
            self._seen.pop(partition, None)

    def _check(self, row: Row, outcome: Rejected) -> None:
        seen, dead, in_row = self._seen[row.partition]
        many = seen >= self.SEEN_MIN and dead > self._ratio_max * seen
        if many or in_row > self._run_max:
            raise BadData(
                f"too many dead letters in {row.columns.topic}/{row.partition} before offset "
                f"{row.offset}: {in_row} in a row, {dead / seen:.0%} lately, the last because of "
                f"{outcome.reason} ({outcome.message}). Mend the producer or the model; or raise "
                "dead_letters.ratio_max and dead_letters.run_max to let them pass."
            )
