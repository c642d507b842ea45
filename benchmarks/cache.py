"""What Redis is worth on text where most has been said before, and what it costs where nothing has."""

from __future__ import annotations

from benchmarks import events, race, report
from benchmarks.backlog import backlog
from benchmarks.contestants.lineup import CachedStreamer, Streamer
from benchmarks.plan import Bench, Findings
from benchmarks.race import speed
from benchmarks.turns import take_turns
from benchmarks.workers import CachedText, RepeatedText, Text

COMMAND = "python -m benchmarks --only cache"
HOW = "exactly_once"
REPEATED = 0.9
GAIN_MIN, KEPT_MIN = 6.0, 0.97
NEW_RATE, REPEATS_RATE = 3_500, 30_000
"""Events a second that are expected; they size the backlogs."""
WORDS_MAX = {"batch.cost_max": "1000"}


def measure(bench: Bench) -> Findings:
    """The text model without a cache, with Redis where all is new, and with Redis where nine of ten are repeats."""
    new, repeats = events.whole(NEW_RATE * bench.sizes.seconds), events.whole(REPEATS_RATE * bench.sizes.seconds)
    picks = events.repeats(repeats, REPEATED)
    contents = events.text(max(new, int(picks.max()) + 1))
    bootstrap = bench.servers.bootstrap
    with (
        backlog(bootstrap, Text.source, events.synthetic(contents)) as all_new,
        backlog(bootstrap, RepeatedText.source, events.synthetic(contents, picks)) as mostly_said,
    ):
        report.tell(f"sending {new:,} texts that are new and {repeats:,} that mostly repeat")
        said, again = all_new.send(new), mostly_said.send(repeats)
        plain = Streamer("no cache", Text, HOW, NEW_RATE, WORDS_MAX)
        cached = CachedStreamer("Redis, all new", CachedText, HOW, NEW_RATE, WORDS_MAX)
        repeated = CachedStreamer(f"Redis, {REPEATED:.0%} repeats", RepeatedText, HOW, REPEATS_RATE, WORDS_MAX)
        entries = [
            race.entry(bench, all_new, plain, said),
            race.entry(bench, all_new, cached, said),
            race.entry(bench, mostly_said, repeated, again),
        ]
        found = take_turns(entries, bench.sizes.repetitions_short)
    without, unused, used = found
    figures = [
        *race.rates("cache", found, COMMAND),
        report.at_least(
            f"cache, {used.name}: events/s against {without.name}", speed(used), speed(without), GAIN_MIN, COMMAND
        ),
        report.at_least(
            f"cache, {unused.name}: events/s against {without.name}", speed(unused), speed(without), KEPT_MIN, COMMAND
        ),
    ]
    hits = ", ".join(f"{one.name} {one.runs[0].hits:.0%}" for one in found if one.runs)
    chart = race.chart("cache", "Text with a cache", found)
    return Findings(
        figures,
        f"{race.summary(found, without)}\n\nanswers from the cache: {hits}",
        [chart],
        sum(one.faults for one in found),
    )
