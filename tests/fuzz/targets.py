"""What is fuzzed. A target takes bytes, and says what came of them in a word or two; whatever it raises is a bug."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import safetensors
import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import save

from schemas import Event
from streamer.cache.answers import NearCache, Payoff, RedisCache
from streamer.errors import BadConfig, Reason
from streamer.models import Description, Manifest, manifest
from streamer.privacy.encryption import Cipher, Keyring
from streamer.records import Record
from streamer.settings import loading
from streamer.slices import sliced
from streamer.testing import ManualClock
from streamer.wire import headers
from streamer.wire.codec import Identity, JsonCodec
from streamer.wire.derive import Derived, as_model
from streamer.worker import Worker
from workers.lead_scoring.worker import LeadScoring
from workers.ticket_routing.worker import TicketRouting

BYTES_MAX = 1_000_000
NO_DIGITS = str.maketrans("", "", "0123456789")
REASONS = frozenset(Reason)
KEYRING = Keyring("k", {"k": bytes(range(32))})


class Target(NamedTuple):
    """`share` is its part of all inputs, `seeds` the good ones that the bad are made of."""

    name: str
    share: float
    seeds: Sequence[bytes]
    run: Callable[[bytes], object]


class Broken(AssertionError):
    """A rule did not hold for an input."""


@cache
def targets() -> dict[str, Target]:
    """All of them, by name."""
    made = [
        Target("record-lead", 0.38, _events(LeadScoring()), _records(LeadScoring(), None)),
        Target("record-ticket", 0.12, _events(TicketRouting()), _records(TicketRouting(), None)),
        Target("record-encrypted", 0.01, _sealed(TicketRouting()), _records(TicketRouting(), KEYRING)),
        Target("dead-letter-headers", 0.14, [_headers()], _dead_letter),
        Target("model-manifest", 0.02, [_manifest()], _parse_manifest),
        Target("model-weights", 0.2, [_weights(), save({"a": torch.ones(2, 2).half()})], _read_header),
        Target("cached-answer", 0.129, _redis()[3], _cache),
        Target("settings-file", 0.0007, [SETTINGS], _settings_file),
        Target("settings-environment", 0.0003, [VARIABLES], _settings_environment),
    ]
    return {target.name: target for target in made}


def _events(worker: Worker[Any, Any]) -> list[bytes]:
    event = worker.example.model_dump(mode="json")
    more = {**event, "unknown": {"a": [1, 2.5, 'x\\"[{', None, {"b": []}]}, "text": "Grüße 😀 \u2028"}
    return [json.dumps(event).encode(), json.dumps(event, separators=(",", ":")).encode(), json.dumps(more).encode()]


def _sealed(worker: Worker[Any, Any]) -> list[bytes]:
    cipher = Cipher(KEYRING, worker.event, worker.source)
    event = _events(worker)[0]
    return [event, cipher.seal_fields(event), cipher.seal(event)]


def _records(worker: Worker[Any, Any], keyring: Keyring | None) -> Callable[[bytes], object]:
    """The codec accepts what pydantic accepts within our limits, and nothing else, and reads the same; what it refuses
    becomes a dead letter whose headers say why."""
    cipher = Cipher(keyring, worker.event, worker.source) if keyring else None
    codec = JsonCodec(worker, Identity(worker.name, "v1", "abc", "group"), ManualClock(), BYTES_MAX, cipher)

    def run(value: bytes) -> object:
        (columns,) = sliced([Record(worker.source, 2, 41, b"key", value, None, 0)])
        refused = codec.decode(columns.rows())
        expected = _reference(worker.event, value) if cipher is None else None
        if not refused:
            if cipher is None and not _same(columns.events[0], expected):
                raise Broken(f"read {columns.events[0]!r}, pydantic reads {expected!r}")
            return [type(value) for value in expected.__dict__.values()].__repr__() if expected else "opened"
        if expected is not None:
            raise Broken(f"refused ({refused[0][1].message}), and pydantic accepts it within the limits")
        row, rejected = refused[0]
        row.settle(rejected)
        if len(value) % 8:  # the rest takes longer than all before it, and depends little on the input
            return rejected.reason, rejected.message.translate(NO_DIGITS)
        (message,) = (message for run in codec.encode(columns.rows()) for message in run)
        letter = headers.dead_letter(message.headers)
        if letter.reason not in REASONS or (cipher is None and message.value != value):
            raise Broken("the dead letter is not the record")
        return rejected.reason, rejected.message.translate(NO_DIGITS)

    return run


def _reference(event: type[Event], value: bytes) -> Event | None:
    """What an event must be read as: pydantic's own verdict, and the limits as slow Python sees them."""
    try:
        read = event.model_validate_json(value)
    except ValidationError:
        return None
    keys = 0

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs)
        return dict(enumerate(pair[1] for pair in pairs))  # type: ignore[arg-type]

    try:
        whole = json.loads(value, object_pairs_hook=count, parse_constant=_refuse, parse_int=str)
    except ArithmeticError:
        return None
    if _depth(whole) > 32 or keys > 10_000:
        return None
    return read


def _refuse(word: str) -> None:
    raise ArithmeticError(word)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _same(ours: Any, theirs: BaseModel | None) -> bool:
    """Equal, but for the digits of a second beyond six, which one reader rounds and the other cuts."""
    if theirs is None:
        return False
    ours = as_model(ours) if isinstance(ours, Derived) else ours
    return ours == theirs or all(
        abs(a - b) <= timedelta(microseconds=1) if isinstance(a, datetime) and isinstance(b, datetime) else a == b
        for a, b in zip(dict(ours).values(), dict(theirs).values(), strict=True)
    )


def _headers() -> bytes:
    said = {
        headers.DLQ_TOPIC: "crm.leads.events.v1",
        headers.DLQ_PARTITION: "2",
        headers.DLQ_OFFSET: "41",
        headers.DLQ_GROUP: "g",
        headers.DLQ_MESSAGE: "age: too old",
        headers.DLQ_ERROR: "Reject",
        headers.REASON: "invalid",
        headers.WORKER: "lead-scoring",
        headers.ATTEMPTS: "1",
        "other": "x",
    }
    return b"\n".join(f"{name}={value}".encode() for name, value in said.items())


def _dead_letter(data: bytes) -> object:
    parts = [line.partition(b"=") for line in data.split(b"\n")]
    try:
        letter = headers.dead_letter(
            [(name.decode(errors="replace"), value if equals else None) for name, equals, value in parts]
        )
    except ValidationError as error:
        return [(part["loc"], part["type"]) for part in error.errors()].__repr__()
    if letter.attempts < 1 or letter.source.offset < 0:
        raise Broken(f"{letter!r} cannot be")
    return "read"


def _weights() -> bytes:
    return save({"layer.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "layer.bias": torch.zeros(2)})


def _manifest() -> bytes:
    made = Manifest(
        **Description.model_validate(
            {
                "name": "demo",
                "input_schema": "LeadEvent",
                "trained_on": 'a "b" \\ ü',
                "seed": 7,
                "created": "2026-01-01",
                "metrics": {"auc": 0.5},
                "parameters": {"width": 8, "tied": True},
            }
        ).model_dump(),
        version="v1",
        sha256="0" * 64,
        bytes=len(_weights()),
        header_bytes=manifest.header_bytes(_weights()),
        files={"words.json": "1" * 64},
        tensors=manifest.header(_weights()),
    )
    return manifest.toml(made).encode()


def _parse_manifest(data: bytes) -> object:
    try:
        read = manifest.parse(data)
    except ValidationError as error:
        return error.errors()[0]["type"]
    except ValueError as error:
        return type(error).__name__, str(error)[:20]
    if manifest.parse(manifest.toml(read).encode()) != read:
        raise Broken("a manifest is written as something else than was read")
    return "read"


def _read_header(data: bytes) -> object:
    try:
        held = manifest.header(data)
    except ValueError as error:
        return str(error)[:60].translate(NO_DIGITS)
    theirs = {
        name: (part["dtype"], list(part["shape"]), len(part["data"])) for name, part in safetensors.deserialize(data)
    }
    ours = {name: (tensor.dtype, tensor.shape, tensor.size) for name, tensor in held.items()}
    if ours != theirs:
        raise Broken(f"read {ours}, safetensors reads {theirs}")
    return "read", len(held)


class _Redis:
    """Holds one value under every key."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.sent: list[bytes] = []

    def mget(self, names: Sequence[bytes]) -> list[bytes | None]:
        return [self.value for _ in names]

    def pipeline(self, transaction: object = None) -> _Redis:
        return self

    def set(self, name: bytes, value: bytes, **options: object) -> None:
        self.sent.append(value)

    def execute(self) -> None:
        """Nothing is sent."""


KEY = bytes(range(16))
ANSWER = b'{"probability":0.5,"band":"hot"}'


@cache
def _redis() -> tuple[_Redis, NearCache, RedisCache, list[bytes]]:
    """A cache over a Redis that says anything, and the values of the two answers that are in it."""
    redis, clock = _Redis(), ManualClock()
    near = NearCache(clock, 8, 60)
    made = RedisCache(
        cast(Any, redis),
        near,
        Payoff(lambda: 1e9),
        clock=clock,
        secret=b"secret",
        ttl_s=60,
        bad_values=lambda count: None,
    )
    made.put_many([(KEY, ANSWER), (KEY[::-1], b"x")])
    return redis, near, made, redis.sent


def _cache(data: bytes) -> object:
    redis, near, whole, sent = _redis()
    near.close()
    redis.value = data
    (answer,) = whole.get_many([KEY])
    if answer is not None and (data != sent[0] or answer != ANSWER):
        raise Broken(f"{answer!r} was never put there")
    return answer is None


SETTINGS = b"""delivery = "exactly_once"
drain_s = 2.5
[kafka]
bootstrap_servers = "localhost:9092"
[kafka.client]
"security.protocol" = "plaintext"
session.timeout.ms = 6000
[batch]
items_max = 512
[cache]
url = "redis://localhost:6379/0"
[http]
port = 0
[models]
version = "v2"
"""
VARIABLES = b"""DELIVERY=at_least_once
KAFKA__BOOTSTRAP_SERVERS=localhost:9092
KAFKA__CLIENT={"security.protocol": "plaintext"}
BATCH__ITEMS_MAX=12
HTTP__TOKEN=a token of ours, long enough
CACHE={"ttl_s": 3}"""


@cache
def _file() -> Path:
    return Path(tempfile.mkdtemp(prefix="streamer-fuzz-")) / "streamer.toml"


def _settings_file(data: bytes) -> object:
    _file().write_bytes(data)
    return _load(_file())


def _settings_environment(data: bytes) -> object:
    pairs = [line.partition("=") for line in os.fsdecode(data.replace(b"\0", b"")).split("\n")]
    _file().write_bytes(b"")
    with patch.dict(os.environ, {f"STREAMER_{name}": value for name, equals, value in pairs if equals}):
        return _load(_file())


def _load(path: Path) -> object:
    try:
        return loading.load(path).delivery
    except BadConfig as error:
        return str(error)[:40]
