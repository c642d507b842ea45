"""Dead letters as a whole: what the log says, and when to stop before a whole topic turns into dead letters."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from streamer.errors import BadData
from streamer.records import Item, Rejected, Released
from streamer.wire import headers

log = structlog.get_logger(__name__)


def log_reasons(items: Sequence[Item]) -> None:
    """One line a reason, about the first record that has it: a broken producer must not flood the log."""
    first: dict[str, Item] = {}
    counts: dict[str, int] = {}
    for item in items:
        if isinstance(item.outcome, Rejected):
            reason = item.outcome.reason
            first.setdefault(reason, item)
            counts[reason] = counts.get(reason, 0) + 1
    for known, item in first.items():
        assert isinstance(item.outcome, Rejected)
        trace = headers.last(item.record.headers, headers.TRACEPARENT) or b""
        log.warning(
            "dead letters",
            reason=known,
            count=counts[known],
            partition=item.record.partition,
            offset=item.record.offset,
            error=item.outcome.message,
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

    def observe(self, run: Released) -> None:
        """Count what a partition released, and log its dead letters.

        Raises:
            BadData: a limit is passed; none of these items has been published.
        """
        if not (rejected := run.rejected):
            seen, dead, _ = self._seen.get(run.partition, (0.0, 0.0, 0))
            seen += len(run.items)
            while seen > self.WINDOW:
                seen, dead = seen / 2, dead / 2
            self._seen[run.partition] = (seen, dead, 0)
            return
        self._observe_each(run)
        log_reasons(rejected)

    def _observe_each(self, run: Released) -> None:
        seen, dead, in_row = self._seen.get(run.partition, (0.0, 0.0, 0))
        for item in run.items:
            if seen >= self.WINDOW:
                seen, dead = seen / 2, dead / 2
            seen += 1
            if isinstance(item.outcome, Rejected):
                dead, in_row = dead + 1, in_row + 1
                self._check(item, item.outcome, seen, dead, in_row)
            else:
                in_row = 0
        self._seen[run.partition] = (seen, dead, in_row)

    def forget(self, partitions: Sequence[int]) -> None:
        """Start again with partitions that may come back."""
        for partition in partitions:
            self._seen.pop(partition, None)

    def _check(self, item: Item, outcome: Rejected, seen: float, dead: float, run: int) -> None:
        many = seen >= self.SEEN_MIN and dead > self._ratio_max * seen
        if many or run > self._run_max:
            raise BadData(
                f"too many dead letters in {item.record.topic}/{item.record.partition} before offset "
                f"{item.record.offset}: {run} in a row, {dead / seen:.0%} lately, the last because of "
                f"{outcome.reason} ({outcome.message}). Mend the producer or the model; or raise "
                "dead_letters.ratio_max and dead_letters.run_max to let them pass."
            )
