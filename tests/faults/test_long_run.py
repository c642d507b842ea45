"""What judges the long run and the soak is itself held against faults that are planted, without a broker."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.faults import report, soak
from tests.faults.checker import Input, Output
from tests.faults.follower import Matcher
from tests.faults.report import GOALS, Phase
from tests.faults.segments import BATCH, CONTROL, TRANSACTIONAL, batches
from tests.faults.test_checker import answered, given
from tests.faults.transactions import Decision, Logs, Transaction, Written, coordinator_partition, decided, torn
from tests.faults.worker_main import POINTS


def whole(inputs: list[Input], *ends: int) -> list[Transaction]:
    """One transaction up to each of these positions, in both partitions, holding what it should."""
    found, before = [], 0
    for end in ends:
        one = Transaction(f"to {end}")
        for partition in (0, 1):
            one.positions[partition] = end
            one.outputs[partition] = [
                each.place[2]
                for each in inputs
                if each.place[1] == partition and before <= each.place[2] < end and each.outcome != "skip"
            ]
        found.append(one)
        before = end
    return found


def test_whole_transactions_are_not_torn():
    inputs = given()
    assert torn(whole(inputs, 2, 5, 6), inputs) == []


def test_a_transaction_of_nothing_but_skips_is_whole():
    inputs = given()
    assert torn(whole(inputs, 4, 5, 6), inputs) == []  # offset 4 is skipped


def test_positions_that_come_a_transaction_later_are_torn():
    inputs = given()
    first, second = whole(inputs, 2, 6)
    second.positions, first.positions = {**first.positions, **second.positions}, {}
    second.outputs, first.outputs = {}, {p: first.outputs[p] + second.outputs[p] for p in (0, 1)}
    assert len(torn([first, second], inputs)) == 4  # outputs without positions, positions without outputs


def test_a_late_end_that_commits_a_part_of_the_next_transaction_tears_it():
    """The Jepsen case: what was written so far is committed, the rest and the positions come with the next end."""
    inputs = given()
    first, second = whole(inputs, 2, 6)
    part = Transaction("part", {partition: second.outputs[partition][:1] for partition in (0, 1)})
    second.outputs = {partition: second.outputs[partition][1:] for partition in (0, 1)}
    assert len(torn([first, part, second], inputs)) == 4  # in each partition one without, one with too little


def test_a_whole_partition_that_comes_without_its_position_is_torn():
    inputs = given()
    first, second = whole(inputs, 2, 6)
    part = Transaction("part", {0: first.outputs.pop(0)})
    assert len(torn([part, first, second], inputs)) == 2


def test_workers_whose_transactions_alternate_are_not_taken_for_torn():
    """One that moves one partition only, and then another worker that moves both."""
    inputs = given()
    first, second = whole(inputs, 2, 6)
    only = Transaction("only", {0: first.outputs.pop(0)}, {0: first.positions.pop(0)})
    assert torn([first, only, second], inputs) == []


@pytest.mark.parametrize("change", [lambda offsets: offsets[1:], lambda offsets: [*offsets, 5]])
def test_an_output_too_few_or_too_many_is_torn(change):
    inputs = given()
    one, two = whole(inputs, 2, 6)
    one.outputs[1] = change(one.outputs[1])
    (text,) = torn([one, two], inputs)
    assert "partition 1 moves from 0 to 2" in text


def test_a_coordinator_is_found_as_the_broker_finds_it():
    # Java: "faults".hashCode() == -1281833755, so 1281833755 % 50.
    assert java_hash("polygenelubricants") == -(2**31)
    assert coordinator_partition("a", 5) == 97 % 5
    assert coordinator_partition("faults", 50) == abs(java_hash("faults")) % 50


def java_hash(name: str) -> int:
    number = 0
    for letter in name:
        number = (31 * number + ord(letter)) % 2**32
    return number - 2**32 if number >= 2**31 else number


def batch(first: int, body: bytes, *, count: int, attributes: int = TRANSACTIONAL, producer: int = 7) -> bytes:
    length = BATCH.size - 12 + len(body)
    return BATCH.pack(first, length, 0, 2, 0, attributes, count - 1, 0, 0, producer, 0, 0, count) + body


def mark(kind: int) -> bytes:
    return record(struct.pack(">hh", 0, kind), None)


def record(key: bytes, value: bytes | None) -> bytes:
    said = bytes([0, 0, 0]) + zigzag(len(key)) + key + (zigzag(-1) if value is None else zigzag(len(value)) + value)
    said += zigzag(0)  # headers
    return zigzag(len(said)) + said


def zigzag(number: int) -> bytes:
    number, groups = number * 2 if number >= 0 else -2 * number - 1, b""
    while number >= 0x80:
        groups, number = groups + bytes([number & 0x7F | 0x80]), number >> 7
    return groups + bytes([number])


def state(status: int, started_ms: int, name: bytes = b"group.a") -> bytes:
    """What a coordinator writes of producer 7, whose transaction has written to partition 0 of `out`."""
    places = bytes([2, 4]) + b"out" + bytes([2]) + struct.pack(">i", 0) + bytes([0])
    value = struct.pack(">hqhib", 1, 7, 0, 5000, status) + places + struct.pack(">qq", 0, started_ms) + bytes([0])
    return record(struct.pack(">hh", 0, len(name)) + name, value)


def test_batches_and_marks_are_read_from_a_log(tmp_path: Path):
    log = batch(0, b"xyz", count=3) + batch(3, mark(1), count=1, attributes=TRANSACTIONAL | CONTROL)
    log += batch(4, b"x", count=1) + batch(5, mark(0), count=1, attributes=TRANSACTIONAL | CONTROL)
    (tmp_path / "0.log").write_bytes(log + batch(6, b"cut off", count=1)[:-1])
    read = list(batches(tmp_path))
    assert [(one.first, one.last, one.marker) for one in read] == [
        (0, 2, ""),
        (3, 3, "commit"),
        (4, 4, ""),
        (5, 5, "abort"),
    ]


def test_a_compressed_batch_is_refused(tmp_path: Path):
    (tmp_path / "0.log").write_bytes(batch(0, b"x", count=1, attributes=1))
    with pytest.raises(ValueError, match="codec 1"):
        list(batches(tmp_path))


ONGOING, COMMIT, ABORT = 1, 2, 3


@pytest.mark.parametrize(
    ("said", "committed"),
    [
        ([(ONGOING, 1), (COMMIT, 1)], [1]),
        ([(COMMIT, 1), (COMMIT, 1)], [1]),  # it did not hear whether the first was kept
        ([(COMMIT, 1), (ABORT, 1)], []),  # nor here, and then the transaction was out of time
        ([(ABORT, 1), (COMMIT, 2), (COMMIT, 3), (ABORT, 4)], [2, 3]),
    ],
)
def test_the_last_that_a_coordinator_has_written_is_its_decision(
    tmp_path: Path, said: list[tuple[int, int]], committed: list[int]
):
    folder = tmp_path / "__transaction_state-0"
    folder.mkdir()
    (folder / "0.log").write_bytes(
        b"".join(batch(at, state(status, started), count=1, attributes=0) for at, (status, started) in enumerate(said))
        + batch(len(said), state(COMMIT, 9, b"other.a"), count=1, attributes=0)
    )
    found = decided(Logs([tmp_path]), "group")
    assert [one.started_ms for one in found] == committed
    assert {one.partitions for one in found} <= {(("out", 0),)}


@pytest.mark.parametrize(
    ("ends", "surplus", "still_open"), [((1,), 0, 0), ((1, 1), 1, 0), ((1, None), 0, 1), ((0,), 1, 0)]
)
def test_runs_of_a_producer_are_held_against_what_its_coordinator_decided(
    tmp_path: Path, ends: tuple[int | None, ...], surplus: int, still_open: int
):
    """One transaction was decided; `ends` are the marks in the log, 1 for commit, None for one that is missing."""
    folder = tmp_path / "out-0"
    folder.mkdir()
    log, at = b"", 0
    for producer in (7, 8):  # 8 is of another group
        for end in ends:
            log, at = log + batch(at, b"x", count=1, producer=producer), at + 1
            if end is not None:
                marked = batch(at, mark(end), count=1, attributes=TRANSACTIONAL | CONTROL, producer=producer)
                log, at = log + marked, at + 1
    (folder / "0.log").write_bytes(log)
    written = Written(Logs([tmp_path]), [Decision("group.a", 7, 0, (("out", 0),), True)])
    taken = written.take(7, ("out", 0))
    assert (len(written.surplus()), len(written.open)) == (surplus, still_open)
    assert [one.first for one in taken] == ([0] if ends[0] == 1 else [])


# -- the oracle that reads along


def follow(inputs: list[Input], outputs: list[Output]) -> Matcher:
    matcher = Matcher()
    for one in outputs[: len(outputs) // 2]:  # an outcome may be read before its input
        matcher.answered(one)
    for each in inputs:
        matcher.given(each)
    for one in outputs[len(outputs) // 2 :]:
        matcher.answered(one)
    return matcher


def test_a_perfect_run_matches():
    inputs = given()
    matcher = follow(inputs, answered(inputs))
    assert (matcher.complaints, matcher.waiting(), matcher.compared) == (Counter(), 0, len(inputs))


def test_a_loss_is_noticed_as_the_next_comes_and_at_the_end():
    inputs = given()
    outputs = answered(inputs)
    assert follow(inputs, outputs[1:]).complaints == {"lost": 1}
    assert follow(inputs, outputs[:-1]).waiting() == 1


def test_a_duplicate_a_reorder_and_a_wrong_answer_are_noticed():
    inputs = given()
    outputs = answered(inputs)
    assert follow(inputs, [outputs[0], *outputs]).complaints == {"duplicated or reordered": 1}
    assert follow(inputs, [outputs[1], outputs[0], *outputs[2:]]).complaints
    assert follow(inputs, [replace(outputs[0], double=9.0), *outputs[1:]]).complaints == {"wrong": 1}


# -- the figures


def perfect(share: float = 1.0) -> dict[str, Phase]:
    phases = {name: Phase(name, share, events=250_000, faults=Counter(GOALS[name])) for name in GOALS}
    phases["kills"].points = Counter(dict.fromkeys(POINTS, 9))
    phases["kills"].recovery_s = {"classic": [5.0, 9.9], "consumer": [30.0]}
    return phases


def failed(phases: dict[str, Phase]) -> list[str]:
    return [figure.what for figure in report.figures(phases, 1.0) if not figure.ok]


def test_a_run_that_reaches_everything_fails_nothing():
    assert failed(perfect()) == []


@pytest.mark.parametrize("what", report.WRONGS)
@pytest.mark.parametrize("name", GOALS)
def test_one_wrong_outcome_fails_the_run(name: str, what: str):
    phases = perfect()
    setattr(phases[name], what, 1)
    assert failed(phases) == [f"{name}: {what}"]


def test_what_is_not_reached_is_named():
    phases = perfect()
    phases["kills"].points["after sink.begin"] = 4
    phases["kills"].recovery_s["classic"].append(10.1)
    phases["brokers"].faults["kill -9 of a broker"] = 19
    phases["rebalances"].events = 1
    assert failed(phases) == [
        "events",
        "kill -9 of a broker, times",
        "recovery after kill -9, classic protocol, slowest, s",
        f"kill -9 at the rarest of {len(POINTS)} steps, times",
    ]


def test_a_phase_that_broke_off_has_reached_nothing():
    phases = perfect()
    del phases["ambiguous"]
    assert failed(phases) == ["events", "ambiguous EndTxn, times", "ambiguous: events"]


def test_phases_are_kept_one_by_one(tmp_path: Path):
    path = tmp_path / "results" / "faults.json"
    for name, phase in perfect().items():
        report.keep(phase, path)
        assert name in report.load(path)
    again = replace(perfect()["kills"], events=5)
    report.keep(again, path)
    assert report.load(path) == {**perfect(), "kills": again}


def test_the_table_has_a_row_a_phase():
    rows = report.summary(perfect()).splitlines()
    assert len(rows) == 2 + len(GOALS)
    assert "classic 5.0 / 9.9 / 9.9 s" in rows[2]


# -- the soak


def samples(rss_mb_per_hour: float, fds: int = 0) -> list[soak.Sample]:
    chance = np.random.default_rng(1)
    return [
        soak.Sample(
            "steady", 1, at, 300 + rss_mb_per_hour * at / 3600 + chance.normal(0, 0.3), 40 + fds * at // 1800, 9
        )
        for at in range(0, 3600, 5)
    ]


def grown(rows: list[soak.Sample]) -> list[str]:
    return [name for name, one in soak.slopes(rows).items() if one.grows(soak.LIMITS[name])]


def test_a_flat_line_does_not_grow_and_a_leak_does():
    assert grown(samples(0.0)) == []
    assert grown(samples(0.8)) == []
    assert grown(samples(3.0)) == ["rss_mb"]
    assert grown(samples(0.0, fds=4)) == ["fds"]


def lasting(seed: int) -> np.ndarray:
    """0 or 1 at each sample, changed every three minutes or so: a connection that is there, or not."""
    chance = np.random.default_rng(seed)
    return np.cumsum(chance.random(720) < 5 / 180) % 2


def test_what_comes_and_goes_for_minutes_does_not_grow_and_hides_no_leak():
    flat = samples(0.0)
    leak = samples(12.0)
    found = missed = 0
    for seed in range(200):
        states = lasting(seed)
        found += grown([row._replace(fds=33 + 5 * int(on)) for row, on in zip(flat, states, strict=True)]) != []
        missed += grown([row._replace(rss_mb=row.rss_mb + 3 * on) for row, on in zip(leak, states, strict=True)]) == []
    assert found <= 10, "with every sample for evidence of its own it was one in five"
    assert missed <= 10


def test_memory_that_fills_during_the_warm_up_is_no_leak():
    rows = [sample._replace(rss_mb=min(sample.rss_mb, 200 + sample.at_s / 5)) for sample in samples(0.0)]
    assert grown(rows) == []


def test_a_process_that_is_gone_has_no_sample():
    class Gone:
        pid = 2**22 + 1

    assert soak.look(Gone(), 1.0) is None


def test_the_plot_is_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    rows = samples(0.0)
    soak.draw([*rows, *[row._replace(slot="a", pid=2) for row in rows]], tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
