"""`streamer windows` on a real broker and a real Redis: what workers see equals what the records say, whatever happens.

A process is started as a user would, killed, frozen and doubled, and Redis loses what it has; in the end every entity
is compared with one that nothing ever happened to.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from schemas import UsedFeatures, used_features
from streamer.features.entities import Entities, Kept, changelog, decode, encode
from streamer.features.reading import entity_key
from tests.commands import STREAMER, environment, start
from tests.echo import Counting, Ping, ping
from tests.services import Kafka, Redis, create_topic, produce_many, read_topic, unique
from tests.services.admin import admin_of

WORKER = """
from tests.commands import STREAMER, environment, start
from tests.echo import Counting


class Mine(Counting):
    name = "{name}"
    source = "{source}"
    target = "{source}.doubles"
"""
ENTITIES = Entities(Counting.windows)
PARTITIONS = 4
TEN_DAYS = timedelta(days=10)


class Windows:
    """The windows of one worker: its topic, and the processes that keep them."""

    def __init__(self, kafka: Kafka, server: Redis, folder: Path) -> None:
        self.kafka = kafka
        self.name = unique("pings")
        self.folder = folder
        self.client: redis.Redis = server.client()
        settings = environment(kafka__bootstrap_servers=kafka.bootstrap, cache__url=server.url, allow_insecure="true")
        self._environment = {**settings, "TMPDIR": str(folder)}
        (folder / "mine.py").write_text(WORKER.format(name=self.name, source=self.name))
        create_topic(kafka.bootstrap, self.name, PARTITIONS)
        self.call("topics", "apply", "--set", "features.log_share=1")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *verb: str) -> subprocess.Popen[bytes]:
        """A process of `verb`, by default the windows."""
        self._processes.append(start(self._words(*(verb or ("windows",))), self.folder, self._environment))
        return self._processes[-1]

    def call(self, *verb: str) -> str:
        """What a command that ends has printed."""
        done = subprocess.run(
            [STREAMER, *self._words(*verb)],
            cwd=self.folder,
            env=self._environment,
            check=True,
            timeout=120,
            stdout=subprocess.PIPE,
        )
        return done.stdout.decode()

    def used(self, timeout_s: float = 90) -> dict[str, UsedFeatures]:
        """What is in the log of features, when every record has its outcome."""
        bootstrap, deadline = self.kafka.bootstrap, time.monotonic() + timeout_s
        outcomes, records = (f"{self.name}.doubles", f"dlq.{self.name}"), len(read_topic(bootstrap, self.name))
        while (answered := sum(len(read_topic(bootstrap, topic)) for topic in outcomes)) < records:
            assert time.monotonic() < deadline, f"{answered} of {records}\n{self.log()}"
            time.sleep(0.5)
        found = read_topic(bootstrap, used_features(f"{self.name}.doubles"))
        used = [UsedFeatures.model_validate_json(message.value()) for message in found]
        return {one.prediction_id: one for one in used}

    def made_again(self, *how: str) -> dict[str, UsedFeatures]:
        """What `streamer features backfill` makes of the events."""
        lines = self.call("features", "backfill", *how).splitlines()
        made = [UsedFeatures.model_validate_json(line) for line in lines]
        return {one.prediction_id: one for one in made}

    def _words(self, *verb: str) -> list[str]:
        verbs = 2 if verb[0] in ("topics", "features") else 1
        return [*verb[:verbs], "mine.py:Mine", *verb[verbs:]]

    def write(self, events: list[Ping | bytes]) -> None:
        rows = [
            (b"none", one) if isinstance(one, bytes) else (one.key.encode(), one.model_dump_json().encode())
            for one in events
        ]
        produce_many(self.kafka.bootstrap, self.name, rows)

    def expected(self) -> dict[bytes, bytes]:
        """What Redis should hold, by key: of the records as they are in the topic."""
        kept: dict[bytes, Kept] = defaultdict(Kept)
        for message in sorted(
            read_topic(self.kafka.bootstrap, self.name), key=lambda one: (one.partition(), one.offset())
        ):
            try:
                event = Ping.model_validate_json(message.value())
                entity = Counting().feature_key(event)
                if entity is not None:
                    key = entity_key(self.name, ENTITIES.version, message.partition(), entity)
                    ENTITIES.take(kept[key], event, message.offset())
            except (ValueError, ZeroDivisionError):
                continue
        return {key: canonical(encode(one)) for key, one in kept.items() if one.offset >= 0}

    def shown(self) -> dict[bytes, bytes]:
        keys = self.client.keys(f"streamer:windows:{self.name}.*")
        return (
            {key: canonical(value) for key, value in zip(keys, self.client.mget(keys), strict=True) if value}
            if keys
            else {}
        )

    def wait(self, timeout_s: float = 90) -> dict[bytes, bytes]:
        """Until Redis shows what it should."""
        deadline, expected = time.monotonic() + timeout_s, self.expected()
        while (shown := self.shown()) != expected:
            for process in self._processes:
                assert process.poll() in (None, 0, -signal.SIGKILL), self.log()
            assert time.monotonic() < deadline, f"{wrong(shown, expected)}\n{self.log()}"
            time.sleep(0.2)
        return shown

    def log(self) -> str:
        return (self.folder / "log").read_text()[-8000:]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)
        self.client.close()


def canonical(value: bytes) -> bytes:
    """The same of entities that differ in no more than the order in which panes were made."""
    kept = decode(value)
    kept.entity.panes = {size: dict(sorted(panes.items())) for size, panes in sorted(kept.entity.panes.items())}
    kept.seen = dict(sorted(kept.seen.items()))
    return encode(kept)


def wrong(shown: dict[bytes, bytes], expected: dict[bytes, bytes]) -> str:
    differs = [key for key in expected if shown.get(key, expected[key]) != expected[key]]
    return f"{len(expected - shown.keys())} missing, {len(shown - expected.keys())} too many, {len(differs)} differ"


def events(random: random.Random, count: int, start: int = 0) -> list[Ping | bytes]:
    """Of 60 names over some days, one in twenty sent twice, one in fifty broken."""
    found: list[Ping | bytes] = []
    for number in range(start, start + count):
        made = ping(number, f"name-{random.randrange(60)}")
        found.append(made.model_copy(update={"occurred_at": made.occurred_at + random.random() * TEN_DAYS}))
        if random.random() < 0.05:
            found.append(found[-1])
        if random.random() < 0.02:
            found.append(random.choice([b"no json", ping(number, fault="window"), ping(number, fault="nobody")]))
    return found


@pytest.fixture
def windows(kafka: Kafka, redis_server: Redis, tmp_path: Path) -> Iterator[Windows]:
    found = Windows(kafka, redis_server, tmp_path)
    yield found
    found.close()


def test_redis_shows_what_the_records_say_and_gets_it_again_when_it_is_lost(windows: Windows) -> None:
    windows.write(events(random.Random(1), 2_000))
    process = windows.start()
    assert len(windows.wait()) >= 60
    windows.client.delete(*windows.client.keys(f"streamer:windows*:{windows.name}*"))
    windows.wait(10)
    process.terminate()
    assert process.wait(30) == 0, windows.log()
    topic = changelog(f"streamer-{windows.name}", ENTITIES.version)
    admin_of(windows.kafka.bootstrap).delete_topics([topic])[topic].result(20)
    windows.call("topics", "apply")
    assert windows.start().wait(60) == 65, windows.log()
    assert "delete that folder" in windows.log(), "who made the topic anew is told what is left of the old one"


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_loses_and_doubles_nothing(windows: Windows) -> None:
    chance = random.Random(2)
    written = 0
    for _ in range(4):
        process = windows.start()
        until = time.monotonic() + chance.uniform(6, 14)
        while time.monotonic() < until:
            windows.write(events(chance, 100, written))
            written += 100
            time.sleep(0.2)
        process.kill()
    windows.start()
    windows.wait()


@pytest.mark.slow
def test_two_share_the_partitions_and_one_takes_over(windows: Windows) -> None:
    chance = random.Random(3)
    processes = [windows.start(), windows.start()]
    windows.write(events(chance, 1_000))
    windows.wait()
    processes[0].send_signal(signal.SIGSTOP)
    windows.write(events(chance, 1_000, 1_000))
    windows.wait()
    processes[0].send_signal(signal.SIGCONT)
    windows.write(events(chance, 1_000, 2_000))
    windows.wait()


def test_what_a_worker_used_is_made_again_value_by_value(windows: Windows) -> None:
    """The windows lag, lead and die while a worker reads them; what it used is in its log, and in the events."""
    chance = random.Random(4)
    windows.write(events(chance, 300))
    worker = windows.start("run", "--set", "features.log_share=1")
    for number in range(1, 4):
        process = windows.start()
        windows.write(events(chance, 300, 300 * number))
        time.sleep(chance.uniform(5, 12))
        process.kill()
    windows.start()
    windows.wait()
    windows.write(events(chance, 300, 1_500))
    windows.wait()
    logged, level = windows.used(), windows.made_again()
    assert windows.made_again("--as-logged") == logged
    assert level.keys() == logged.keys()
    assert level != logged, "the windows have lagged"
    worker.terminate()
    assert worker.wait(30) == 0
