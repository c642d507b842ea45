"""`streamer replay` among kill -9: every dead letter goes back once, in order.

The long run: `python -m tests.faults.replay --letters 100000`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.topics import dead_letters
from tests.faults.replay import POINTS, Run, Verdict, bury, judge, replay_among_kills
from tests.services import Kafka, unique

LETTERS = 5_000
KILLS = 3

pytestmark = pytest.mark.timeout(240)


def test_a_replay_that_is_killed_at_every_step_sends_each_letter_once(kafka: Kafka, tmp_path: Path) -> None:
    """Fault: kill -9 at each step of a transaction, then at random moments. Expected: the next run goes on where it
    was. Oracle: the source topic holds each letter once, in order."""
    source = unique("letters")
    bury(kafka.bootstrap, source, LETTERS)
    run = Run(kafka.bootstrap, dead_letters(source), str(tmp_path / "replay.log"))
    points = [(point, 1 if number < 2 else 3) for number, point in enumerate(POINTS)]
    died = replay_among_kills(run, points, KILLS, seed=7)
    assert died >= len(POINTS) - 1
    assert judge(kafka.bootstrap, source, LETTERS) == Verdict(LETTERS, lost=0, duplicated=0, reordered=0)


@pytest.mark.slow
def test_filters_and_kills_together_send_each_letter_once(kafka: Kafka, tmp_path: Path) -> None:
    """Fault: kill -9 in a replay that leaves gaps (--where), then in one of the rest. Oracle: each letter once."""
    letters = LETTERS // 5
    source = unique("letters")
    bury(kafka.bootstrap, source, letters)
    for words in (("--where", "reason=invalid"), ()):
        run = Run(kafka.bootstrap, dead_letters(source), str(tmp_path / "replay.log"), words=words)
        replay_among_kills(run, [(point, 1) for point in POINTS[-2:]], 0, seed=7)
    verdict = judge(kafka.bootstrap, source, letters)
    assert (verdict.lost, verdict.duplicated) == (0, 0)


def test_a_replay_without_its_notes_is_noticed(kafka: Kafka, tmp_path: Path) -> None:
    """The planted bug: what was sent is not noted in the transaction that sends it, so the next run sends it again."""
    source = unique("letters")
    bury(kafka.bootstrap, source, 1_000)
    run = Run(kafka.bootstrap, dead_letters(source), str(tmp_path / "replay.log"), bug="no notes")
    replay_among_kills(run, [("after producer.commit_transaction", 1)], 0, seed=7)
    assert judge(kafka.bootstrap, source, 1_000).duplicated > 0
