"""Faults in what is read and in where it is written: bad records, refused answers, gaps and missing topics.

Rows 18 to 21 of the fault matrix (`tests/faults/matrix.py`), on a real Kafka with real worker processes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import ResourceType  # type: ignore[attr-defined]

from streamer.errors import Reason
from streamer.kafka import source as sources
from streamer.wire import headers
from tests.faults.checker import check
from tests.faults.process import WorkerProcess
from tests.faults.quotas import alter_quotas
from tests.faults.script import Script, alter_config, drop_dead_letters, event
from tests.services import Kafka, create_topic

pytestmark = pytest.mark.timeout(240)

GOOD = event(7)
UNREADABLE: Mapping[str, tuple[bytes | None, Reason]] = {
    "empty": (b"", Reason.NOT_JSON),
    "tombstone": (None, Reason.TOMBSTONE),
    "0xFF": (b"\xff" * 64, Reason.NOT_JSON),
    "0xFF in a string": (GOOD.replace(b'"k"', b'"\xff\xfe"'), Reason.NOT_JSON),
    "truncated": (GOOD[:-9], Reason.NOT_JSON),
    "two documents": (GOOD + GOOD, Reason.NOT_JSON),
    "UTF-16": (GOOD.decode().encode("utf-16"), Reason.NOT_JSON),
    "compressed": (b"\x1f\x8b\x08\x00" + bytes(40), Reason.NOT_JSON),
    "deep": (GOOD[:-1] + b', "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", Reason.TOO_DEEP),
    "10 MB": (GOOD[:-1] + b', "x": "' + b"x" * 10_000_000 + b'"}', Reason.TOO_LARGE),
    "huge integer": (event(7).replace(b": 7", b": " + b"9" * 5000), Reason.NOT_JSON),
    "NaN literal": (event(7).replace(b": 7", b": NaN"), Reason.INVALID),
    "infinity literal": (event(7).replace(b": 7", b": -Infinity"), Reason.INVALID),
    "other schema version": (b'{"schema_version": 2, "id": "e7", "payload": {"number": 7}}', Reason.INVALID),
    "other type": (event(7, number="7"), Reason.INVALID),
    "array": (b"[]", Reason.INVALID),
    "control character": (GOOD.replace(b'"k"', b'"a\x00b"'), Reason.NOT_JSON),
    "lone surrogate": (GOOD.replace(b'"k"', b'"\\ud800"'), Reason.NOT_JSON),
}
"""Records of which each must become a dead letter with this reason."""
READABLE: Mapping[str, bytes] = {
    "duplicate keys: the last wins": b'{"number": 1, ' + event(8)[1:],
    "newer schema version, with more fields: they are ignored": event(9, schema_version=99, more={"a": [1]}),
    "escaped control character": GOOD.replace(b'"k"', b'"a\\u0000b"'),
    "astral characters": GOOD.replace(b'"k"', b'"\\ud83d\\ude00"'),
    "white space around": b"\r\n\t " + GOOD + b" \n",
}
"""Strange records that are answered all the same, and why."""


KEYS = (b"even", b"odd")


def put_corpus(script: Script) -> dict[tuple[int, int], str]:
    """Every bad record with a good one behind it, in turns on two partitions; which bad one is where."""
    names = {}
    for number, (name, (value, _)) in enumerate(UNREADABLE.items()):
        partition = number % 2
        script.put(value, "dead letter", partition=partition, key=KEYS[partition])
        names[script.given[-1].place[1:]] = name
        script.put(event(number), partition=partition, key=KEYS[partition])
    for key in (None, b""):
        script.put(GOOD, "dead letter", key=key)
        names[script.given[-1].place[1:]] = "no key"
    for value in READABLE.values():
        script.put(value, key=KEYS[0])
    return names


def test_a_bad_record_is_a_dead_letter_and_the_next_is_served(kafka: Kafka, tmp_path: Path) -> None:
    """Row 18. Fault: a corpus of broken, hostile and strange records. Expected: each a dead letter with its reason,
    byte for byte, or a documented acceptance; never a crash. Oracle: each record has its one outcome, in order (E1)."""
    with Script(kafka, tmp_path, partitions=2) as script:
        script.alter(script.source, max_message_bytes="12000000")
        names = put_corpus(script)
        worker = script.start()
        script.catch_up()
        assert worker.stop() == 0
        report, letters = script.report(), script.letters()
    assert report.complaints == {}, report
    reasons = {name: reason for name, (_, reason) in UNREADABLE.items()} | {"no key": Reason.NO_KEY}
    assert {(names[place], said.reason) for place, (said, _) in letters.items()} == set(reasons.items())
    for place, (_, message) in letters.items():
        if names[place] == "10 MB":
            assert message.value() is None
            size = headers.last(message.headers(), headers.VALUE_BYTES)  # type: ignore[arg-type]
            assert size == str(len(UNREADABLE["10 MB"][0] or b"")).encode()
        elif names[place] != "no key":
            assert message.value() == UNREADABLE[names[place]][0]


def test_dead_letters_that_are_dropped_are_noticed(kafka: Kafka, tmp_path: Path) -> None:
    """Rows 18 and 21, the planted bug: bad records are passed over in silence. The oracle must say which."""
    with Script(kafka, tmp_path, partitions=2) as script:
        script.put(b"{", "dead letter")
        script.put(GOOD)
        script.start(before=drop_dead_letters)
        script.catch_up()
        report = script.report()
    assert report.lost == [script.given[0].place]


def test_an_answer_that_the_topic_refuses_stops_the_worker_and_is_not_lost(kafka: Kafka, tmp_path: Path) -> None:
    """Row 19. Fault: an answer larger than the target's max.message.bytes. Expected: exit 69 with the cure, no position
    passes it, and once the topic takes it all goes on. Oracle: E1, and the position at the exit."""
    with Script(kafka, tmp_path, partitions=1) as script:
        script.alter(script.target, max_message_bytes="2000")
        script.put(GOOD, times=20)
        script.put(event(21), key=b"long" * 1000)
        script.put(GOOD, times=20)
        worker = script.start()
        assert worker.wait(60) == 69
        assert "raise max.message.bytes of the topic" in worker.log()
        assert script.committed()[0] <= 20
        script.alter(script.target, max_message_bytes="1000000")
        worker = script.start()
        script.catch_up()
        assert worker.stop() == 0
        report = script.report()
    assert report.complaints == {}, report


def test_an_answer_larger_than_a_record_may_be_is_a_dead_letter(kafka: Kafka, tmp_path: Path) -> None:
    """Row 19. Fault: key and answer together exceed limits.record_bytes_max. Expected: dead letter `answer-too-large`,
    the next record is served. Oracle: E1 and the reason."""
    with Script(kafka, tmp_path, partitions=1) as script:
        script.put(event(1), "dead letter", key=b"long" * 475)
        script.put(event(2))
        worker = script.start(settings={"limits": {"record_bytes_max": 4000}})
        script.catch_up()
        assert worker.stop() == 0
        report, letters = script.report(), script.letters()
    assert report.complaints == {}, report
    assert [said.reason for said, _ in letters.values()] == [Reason.ANSWER_TOO_LARGE]


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "value"), [("target", event(5)), ("dead_letters", b"{")], ids=["target", "dlq"])
def test_a_topic_that_is_gone_stops_the_worker_and_no_position_passes(
    kafka: Kafka, tmp_path: Path, gone: str, value: bytes
) -> None:
    """Rows 19 and 21. Fault: the target, or the topic of dead letters, is deleted under a worker. Expected: it ends
    with exit 69 and names the topic, again at each start; no position passes what could not be written; when it
    is back all is answered. Oracle: E1 from the position at the exit on."""
    with Script(kafka, tmp_path, partitions=1) as script:
        script.put(GOOD, times=50)
        if gone == "dead_letters":
            script.put(b"{", "dead letter")  # the client knows the topic when it goes
        first = script.start()
        script.catch_up()
        answered = len(script.given)
        script.delete(topic := getattr(script, gone))
        script.put(value, "prediction" if gone == "target" else "dead letter")
        script.put(GOOD, times=20)
        assert first.wait(60) == 69, first.log()[-2000:]
        assert_named(first, topic)
        if gone == "dead_letters":
            second = script.start()
            assert second.wait(60) == 69, second.log()[-2000:]
            assert_named(second, topic)
        assert script.committed()[0] <= script.given[answered].place[2]
        create_topic(kafka.bootstrap, topic, 1)
        last = script.start()
        script.catch_up()
        assert last.stop() == 0
        kept = [one for one in script.outputs() if one.place[2] >= script.given[answered].place[2]]
        report = check(script.given[answered:], kept)
    assert report.complaints == {}, report


def assert_named(worker: WorkerProcess, topic: str) -> None:
    """The last that it said names the topic and the cure."""
    said = worker.log().splitlines()[-1]
    assert topic in said
    assert "make the topics: streamer topics apply" in said


@pytest.mark.slow
def test_a_quota_makes_it_slow_and_loses_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """Row 19. Fault: the broker throttles this client's reads and writes. Expected: slow, no restart, no loss.
    Oracle: E1, and that the broker did throttle (the same records take seconds longer than without)."""
    with Script(kafka, tmp_path, partitions=1) as script:
        quotas = {"producer_byte_rate": 60_000.0, "consumer_byte_rate": 60_000.0}
        alter_quotas(kafka.bootstrap, script.group, quotas)
        try:
            worker = script.start()
            worker.wait_for("partitions assigned")
            script.put(GOOD, times=3000)
            slow_s = script.catch_up(timeout_s=90)
        finally:
            alter_quotas(kafka.bootstrap, script.group, dict.fromkeys(quotas))
        script.put(GOOD, times=3000)
        quick_s = script.catch_up()
        assert worker.stop() == 0
        report = script.report()
    assert report.complaints == {}, report
    print(f"throttled {slow_s:.1f} s, after it {quick_s:.1f} s")
    assert slow_s > quick_s + 2, "the quota had no effect"


def test_what_upstream_repeats_aborts_and_compacts_is_read_right(kafka: Kafka, tmp_path: Path) -> None:
    """Row 20. Fault: duplicates upstream, transactions with marks, aborted ones, and gaps of compaction. Expected:
    every committed record once, duplicates each by its own offset, nothing of what was aborted. Oracle: E1 against what
    a read_committed reader finds, with a kill -9 in the middle."""
    with Script(kafka, tmp_path, partitions=1) as script:
        script.alter(script.source, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01", segment_ms="100")
        with fast_cleaner(script):
            script.put(GOOD, times=30, key=b"again")  # all but the last are compacted away
            upstream(script, kafka)
            time.sleep(0.2)
            script.put(event(1), times=2, key=b"twice")  # a new segment: the ones before may be cleaned
            script.until(lambda: sum(one.key == b"again" for one in script.inputs()) < 5, "compaction")
        killed = script.start(die_at=("before producer.commit_transaction", 1))
        assert killed.wait(30) == -signal.SIGKILL
        worker = script.start()
        script.catch_up()
        inputs = script.inputs()
        assert worker.stop() == 0
        report = check(inputs, script.outputs())
    assert report.complaints == {}, report
    numbers = [one.place[2] for one in inputs]
    assert numbers[-1] - numbers[0] > len(numbers) + 20, "there are gaps"
    assert not any(one.event_id.startswith("aborted") for one in inputs)


def upstream(script: Script, kafka: Kafka) -> None:
    """Transactions of somebody else, every second one aborted."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": script.group + ".upstream"})
    producer.init_transactions(30)
    for number in range(10):
        producer.begin_transaction()
        name = "aborted" if number % 2 else "kept"
        for at in range(5):
            producer.produce(script.source, event(at, event_id=f"{name}-{number}-{at}"), f"{name}-{number}-{at}", 0)
        producer.flush(30)
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(30)


class fast_cleaner:  # noqa: N801 - used as a function
    """The broker looks every second whether a log is to be compacted, not every 15."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def __enter__(self) -> None:
        self._set("500")

    def __exit__(self, *_: object) -> None:
        self._set("15000")

    def _set(self, backoff_ms: str) -> None:
        for broker in self._script.admin.list_topics(timeout=10).brokers:
            alter_config(self._script.admin, ResourceType.BROKER, str(broker), {"log.cleaner.backoff.ms": backoff_ms})


@pytest.mark.parametrize("when", ["between two workers", "under a worker"])
def test_retention_that_overtakes_the_position_is_an_error(kafka: Kafka, tmp_path: Path, when: str) -> None:
    """Row 20. Fault: DeleteRecords removes what was not read yet. Expected: exit 65 that says so, at each start, and no
    position moves: never a silent skip. Oracle: exit status and the committed position."""
    with Script(kafka, tmp_path, partitions=1) as script:
        overtake(script, when)
        for _ in range(2):
            worker = script.start()
            assert worker.wait(30) == 65, worker.log()[-2000:]
            assert "retention has deleted records that were not read yet" in worker.log()
            assert script.committed()[0] < 200


def test_a_silent_skip_is_noticed(kafka: Kafka, tmp_path: Path) -> None:
    """Row 20, the planted bug: where the position is gone it reads on from what is left. The oracle is the position,
    which has then moved past records that nobody answered."""
    with Script(kafka, tmp_path, partitions=1) as script:
        overtake(script, "between two workers")
        skipping = script.start(before=skip_silently)
        script.catch_up()
        assert skipping.alive()
        answered = {one.place[2] for one in script.outputs()}
        assert script.committed()[0] > 200
    assert not answered.issuperset(range(200)), "records were skipped"


def skip_silently() -> None:
    """Plant it."""
    sources.DEFAULTS = {**sources.DEFAULTS, "auto.offset.reset": "earliest"}  # type: ignore[misc]


def overtake(script: Script, when: str) -> None:
    """Have the log begin behind the group's position."""
    script.put(GOOD, times=50)
    worker = script.start()
    script.catch_up()
    if when == "under a worker":
        worker.signal(signal.SIGSTOP)
        time.sleep(0.3)  # the fetch that is out comes back empty
    else:
        assert worker.stop() == 0
    script.put(GOOD, times=250)
    for future in script.admin.delete_records([TopicPartition(script.source, 0, 200)]).values():
        future.result(15)
    if when == "under a worker":
        worker.signal(signal.SIGCONT)
        assert worker.wait(60) == 65, worker.log()[-2000:]
