"""The verbs on a real broker and a real Redis."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from streamer.kafka.clients import counts
from streamer.settings.loading import load
from streamer.wire import headers
from tests.services import Kafka, Redis, create_topic, produce_many, read_topic, unique

Run = Callable[..., tuple[int, str, str]]


def partitions(kafka: Kafka, *topics: str) -> list[int | None]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    settings = load(None, {"kafka.bootstrap_servers": kafka.bootstrap, "allow_insecure": True})
    found = counts(admin, settings, list(topics))
    return [found[topic] for topic in topics]


def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


# topics


def test_topics_are_planned_made_and_then_left(run: Run, kafka: Kafka, source: str) -> None:
    three = [source, f"{source}.scores", f"dlq.{source}"]
    worker = "mine.py:Scorer"
    code, out, _ = run("topics", "plan", worker, "--partitions", "3", "--json")
    assert code == 0
    assert [(step["topic"], step["action"], step["wanted"]) for step in json.loads(out)] == [
        (topic, "create", 3) for topic in three
    ]
    assert run("topics", "apply", worker, "--dry-run")[0] == 0
    assert partitions(kafka, *three) == [None, None, None]

    assert run("topics", "apply", worker, "--partitions", "3", "--replication", "1")[0] == 0
    assert partitions(kafka, *three) == [3, 3, 3]
    code, out, _ = run("topics", "apply", worker)
    assert out.count("\tkeep\t3 partitions") == 3

    code, out, _ = run("topics", "apply", worker, "--partitions", "5")
    assert (code, out.count("differs\thas 3 partitions, 5 wanted; left as it is")) == (0, 3)
    assert partitions(kafka, *three) == [3, 3, 3]


def test_missing_topics_get_the_partitions_of_the_source(run: Run, kafka: Kafka, source: str) -> None:
    create_topic(kafka.bootstrap, source, partitions=2)
    assert run("topics", "apply", "mine.py:Scorer")[0] == 0
    assert partitions(kafka, f"{source}.scores", f"dlq.{source}") == [2, 2]


def test_dead_letters_may_be_larger_than_what_they_come_from(run: Run, kafka: Kafka, source: str) -> None:
    run("topics", "apply", "mine.py:Scorer")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    asked = ConfigResource(ResourceType.TOPIC, f"dlq.{source}")
    found = admin.describe_configs([asked])[asked].result(10)
    assert int(found["max.message.bytes"].value) == 2 * 1_048_588


def test_without_a_broker_the_address_is_named(run: Run, source: str) -> None:
    address = nobody()
    code, _, err = run("topics", "plan", "mine.py:Scorer", "--set", f"kafka.bootstrap_servers={address}")
    assert code == 69
    assert address in err
    assert "Connection refused" in err
    assert "kafka.bootstrap_servers" in err


# produce and tail


def tickets(folder: Path, count: int) -> Path:
    file = folder / "tickets.csv"
    file.write_text("text,customer_id\n" + "".join(f"ticket {n},customer-{n % 5}\n" for n in range(1, count + 1)))
    return file


def test_a_file_is_produced_whole_in_order_and_with_stable_ids(
    run: Run, kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    tickets(tmp_path, 500)
    code, out, _ = run("produce", "tickets.csv", "--as", "ticket", "--topic", topic)
    assert (code, out) == (0, f"sent 500 events to {topic}\n")
    read = read_topic(kafka.bootstrap, topic)
    events = [json.loads(message.value() or b"") for message in read]
    assert {event["event_id"] for event in events} == {f"tickets-{n}" for n in range(1, 501)}
    for message, event in zip(read, events, strict=True):
        assert message.key() == event["customer_id"].encode()
        assert headers.last(message.headers(), headers.CONTENT_TYPE) == b"application/json"  # type: ignore[arg-type]
    mine = [int(event["event_id"][8:]) for event in events if event["customer_id"] == "customer-3"]
    assert mine == sorted(mine)


def test_bad_rows_are_not_sent_and_the_rest_is(run: Run, kafka: Kafka, topic: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"text\nfine\n{'x' * 4001}\nfine too\n")
    code, out, err = run("produce", "t.csv", "--as", "ticket", "--topic", topic)
    assert (code, out) == (65, f"sent 2 events to {topic}\n")
    assert "row 2: text: " in err
    assert len(read_topic(kafka.bootstrap, topic)) == 2


def test_the_rate_is_kept(run: Run, topic: str, tmp_path: Path) -> None:
    tickets(tmp_path, 50)
    started = time.monotonic()
    assert run("produce", "tickets.csv", "--as", "ticket", "--topic", topic, "--rate", "40", "--limit", "20")[0] == 0
    assert time.monotonic() - started >= 0.45


def test_a_topic_that_is_not_there_is_told_before_anything_is_sent(run: Run, tmp_path: Path) -> None:
    tickets(tmp_path, 1)
    code, _, err = run("produce", "tickets.csv", "--as", "ticket", "--topic", "no.such.topic")
    assert code == 69
    assert "there is no topic no.such.topic" in err


def test_tail_shows_committed_records_only(run: Run, kafka: Kafka, topic: str, group_id: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": group_id})
    producer.init_transactions(15)
    for value, finish in ((b"gone", producer.abort_transaction), (b"kept", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value, b"k", 0)
        producer.flush(15)
        finish(15)
    code, out, _ = run("tail", topic, "--from", "start", "--limit", "1", "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["key"], said["value"], said["partition"], said["offset"]) == ("k", "kept", 0, 2)


@pytest.mark.parametrize("last", ["abort", "open", "records after it"])
def test_tail_to_the_end_ends_by_itself(run: Run, kafka: Kafka, topic: str, group_id: str, last: str) -> None:
    """Of four partitions one ends in marks of transactions, or in one that is open; the others are empty or plain."""
    produce_many(kafka.bootstrap, topic, [(b"k", b"plain")] * 3, partition=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": group_id})
    producer.init_transactions(15)
    for value, finish in ((b"kept", producer.commit_transaction), (b"gone", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value, b"k", 0)
        producer.flush(15)
        if value == b"kept" or last != "open":
            finish(15)
    if last == "records after it":
        produce_many(kafka.bootstrap, topic, [(b"k", b"plain")], partition=0)
    code, out, _ = run("tail", topic, "--from", "start", "--to", "end", "--json")
    found = sorted(json.loads(line)["value"] for line in out.splitlines())
    assert (code, found) == (0, ["kept"] + ["plain"] * (4 if last == "records after it" else 3))
    code, out, _ = run("tail", topic, "--from", "start", "--to", "end", "-n", "2", "--json")
    assert (code, len(out.splitlines())) == (0, 2)
    assert run("tail", topic, "--to", "end") == (0, "", "")


def test_tail_from_the_end_shows_what_comes(run: Run, kafka: Kafka, topic: str) -> None:
    produce_many(kafka.bootstrap, topic, [(b"k", b"old")])
    stop = threading.Event()

    def keep_sending() -> None:
        while not stop.is_set():  # until the reader is there, which nothing tells
            produce_many(kafka.bootstrap, topic, [(b"k", b"new")])
            stop.wait(0.1)

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        _, out, _ = run("tail", topic, "--limit", "1")
    finally:
        stop.set()
        sender.join()
    assert out == "k  new\n"


# lag


def commit(kafka: Kafka, group: str, positions: Sequence[TopicPartition]) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    consumer.commit(offsets=list(positions), asynchronous=False)
    consumer.close()


def test_lag_in_records_and_seconds(run: Run, kafka: Kafka, source: str) -> None:
    create_topic(kafka.bootstrap, source, partitions=3)
    hour_ago = int((time.time() - 3600) * 1000)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(5):
        producer.produce(source, b"{}", b"k", 0, timestamp=hour_ago + number * 600_000)
    producer.produce(source, b"{}", b"k", 1)
    assert producer.flush(15) == 0
    group = unique("group")
    commit(kafka, group, [TopicPartition(source, 0, 3), TopicPartition(source, 1, 1)])

    code, out, _ = run("lag", "mine.py:Scorer", "--json", "--set", f"kafka.group_id={group}")
    assert code == 0
    said = json.loads(out)
    assert (said["group"], said["topic"], said["behind"]) == (group, source, 2)
    assert [(row["partition"], row["position"], row["end"], row["behind"]) for row in said["partitions"]] == [
        (0, 3, 5, 2),
        (1, 1, 1, 0),
        (2, 0, 0, 0),
    ]
    assert said["seconds"] == said["partitions"][0]["seconds"] == pytest.approx(1800, abs=60)
    assert said["partitions"][1]["seconds"] == 0
    assert said["drain"]["seconds"] is None, "nobody answers, so it never drains"


def test_the_mark_of_a_transaction_is_no_lag(run: Run, kafka: Kafka, source: str) -> None:
    create_topic(kafka.bootstrap, source, partitions=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique("t")})
    producer.init_transactions(15)
    producer.begin_transaction()
    producer.produce(source, b"{}", b"k", 0)
    producer.commit_transaction(15)
    group = unique("group")
    commit(kafka, group, [TopicPartition(source, 0, 1)])  # one before the end: only the mark is left
    _, out, _ = run("lag", "mine.py:Scorer", "--json", "--set", f"kafka.group_id={group}")
    said = json.loads(out)
    assert (said["behind"], said["seconds"], said["drain"]["seconds"]) == (0, 0, 0)


def test_lag_for_people(run: Run, kafka: Kafka, source: str) -> None:
    create_topic(kafka.bootstrap, source, partitions=1)
    _, out, _ = run("lag", "mine.py:Scorer")
    assert out.splitlines() == [
        "partition\tposition\tend\tbehind\tseconds",
        "0\t0\t0\t0\t0.0",
        "0 answered/s, 0 arriving/s: caught up in 0 s",
    ]


# check


def test_check_passes_when_all_is_there(run: Run, redis_server: Redis, source: str) -> None:
    run("topics", "apply", "mine.py:Scorer", "--partitions", "2")
    code, out, _ = run("check", "mine.py:Scorer", "--set", f"cache.url={redis_server.url}", "--json", "--show")
    said = json.loads(out)
    assert code == 0, said
    assert [(f["check"], f["result"]) for f in said["findings"]] == [
        (check, "ok")
        for check in ("settings", "worker", "schema", "model", "dry run", "broker", "topic", "topic", "topic", "cache")
    ]
    assert {row["key"]: row["value"] for row in said["settings"]}["cache.url"] == "**********"
    assert redis_server.url not in out


def test_check_names_missing_topics_with_the_cure(run: Run, kafka: Kafka, source: str) -> None:
    create_topic(kafka.bootstrap, source, partitions=2)
    create_topic(kafka.bootstrap, f"{source}.scores", partitions=3)
    code, out, _ = run("check", "mine.py:Scorer")
    assert code == 69
    assert f"topic\tok\t{source}, 2 partitions" in out
    assert f"topic\twarn\t{source}.scores has 3 partitions, {source} has 2" in out
    assert f"topic\tfailed\tdlq.{source} is not there; make it: streamer topics apply" in out


def test_check_of_absent_servers_is_69(run: Run, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_CACHE__URL", f"redis://:pw@{nobody()}")
    code, out, _ = run(
        "check",
        "mine.py:Scorer",
        "--set",
        f"kafka.bootstrap_servers={nobody()}",
    )
    assert code == 69
    assert "broker\tfailed\t" in out
    assert "cache\tfailed\tRedis does not answer" in out
    assert "dry run\tok\t" in out
    assert ":pw@" not in out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Broken", "dry run\tfailed\tthe example becomes a dead letter (model-error: the worker raised RuntimeError"),
        ("Misfit", "was trained on LeadEvent, the worker reads TicketEvent"),
    ],
)
def test_check_of_a_wrong_worker_is_78(run: Run, source: str, name: str, told: str) -> None:
    run("topics", "apply", "mine.py:Scorer")
    code, out, _ = run("check", f"mine.py:{name}")
    assert told in out, out
    assert code == 78
