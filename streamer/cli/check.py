"""`streamer check`: what is wrong before a start, and the cure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import BaseModel

from schemas import Event, dead_letters, used_features
from streamer.cli.common import AsJson, ConfigFile, Sets, overrides, print_json, print_rows
from streamer.cli.run import WorkerName
from streamer.errors import BadConfig, Exit, Unreachable
from streamer.kafka import clients
from streamer.settings import Settings
from streamer.settings import loading as configuration
from streamer.settings.kafka_names import is_secret

Show = Annotated[bool, typer.Option("--show", help="Print every setting and where it comes from; secrets starred.")]

OK, WARN, FAILED = "ok", "warn", "failed"


class Finding(NamedTuple):
    """One line: the check, its result (ok, warn or failed), what was seen, and the cure. A failure has a `code`."""

    check: str
    result: str
    message: str
    code: int = 0


def check(
    worker: WorkerName, show: Show = False, as_json: AsJson = False, sets: Sets = None, config: ConfigFile = None
) -> None:
    """Check settings, model, a dry run on the worker's example, broker, topics and cache; start nothing.

    Exit code 78: settings, worker or model are wrong; 69: broker, topics or cache are not there.

    Example: streamer check lead-scoring --show
    """
    stacked = configuration.layers(config, overrides(sets))
    chosen = configuration.merge(stacked)
    findings = [
        Finding("settings", OK, "from " + (", ".join(layer.origin for layer in stacked if layer.values) or "defaults"))
    ]
    findings += _all(chosen, worker)
    settings = [shown._asdict() for shown in configuration.shown(chosen, stacked)] if show else []
    if as_json:
        print_json(
            {"findings": [finding._asdict() for finding in findings], **({"settings": settings} if show else {})}
        )
    else:
        for shown in settings:
            print(_as_toml(**shown))
        print_rows([{"check": f.check, "result": f.result, "message": f.message} for f in findings])
    raise typer.Exit(max((finding.code for finding in findings), default=0))


def _as_toml(key: str, value: Any, origin: str) -> str:
    """A line to paste into streamer.toml. A setting that cannot stand there becomes a comment."""
    section, _, name = key.partition("kafka.client.")
    dotted = f"kafka.client.{json.dumps(name)}" if not section and name else key
    if value is None:
        return f"# {dotted} is not set  # {origin}"
    text = f"{dotted} = {json.dumps(value, ensure_ascii=False)}  # {origin}"
    return f"# {text}" if is_secret(key) else text


def _all(chosen: Settings, name: str) -> Iterator[Finding]:
    from streamer import discovery

    try:
        found = discovery.find(name)
        worker = found()
    except Exit as error:
        yield Finding("worker", FAILED, str(error), error.code)
        return
    # A worker from a file has a module name that streamer made up; it would tell its author nothing.
    yield Finding("worker", OK, name if ".py:" in name else f"{found.__module__}:{found.__name__}")
    schema = _guarded("schema", lambda: _schema(found))
    yield schema
    model = _guarded("model", lambda: _model(chosen, worker))
    yield model
    if schema.result == model.result == OK:
        yield _guarded("dry run", lambda: _dry_run(chosen, worker))
    if chosen.encryption.keys_file:
        yield _guarded("encryption", lambda: _encryption(chosen))
    client = clients.admin(chosen)
    broker = _guarded("broker", lambda: _broker(client, chosen))
    yield broker
    if broker.result == OK:
        yield from _topics(client, chosen, found, name)
    yield _guarded("cache", lambda: _cache(chosen))


def _guarded(check: str, look: Any) -> Finding:
    """Run one check. An error of ours makes it fail; so does an unforeseen error of the worker's code."""
    try:
        return Finding(check, OK, look())
    except Exit as error:
        return Finding(check, FAILED, str(error), error.code)
    except Exception as error:
        return Finding(check, FAILED, f"{type(error).__name__}: {error}", BadConfig.code)


def _schema(worker: Any) -> str:
    if not issubclass(worker.event, Event):
        raise BadConfig(f"event is {worker.event.__name__}; derive it from schemas.Event")
    if not issubclass(worker.answer, BaseModel):
        raise BadConfig(f"answer is {worker.answer.__name__}; derive it from pydantic.BaseModel")
    if not isinstance(worker.example, worker.event):
        raise BadConfig(f"example is no {worker.event.__name__}; make it one")
    worker.answer.model_json_schema(mode="serialization")
    fields = len(worker.event.model_json_schema()["properties"])
    return f"{worker.event.__name__} ({fields} fields) to {worker.answer.__name__}"


def _model(chosen: Settings, worker: Any) -> str:
    from streamer import app, models

    app.choose_device(chosen.device)
    if not worker.model:
        return "the worker needs no files"
    model = models.find(chosen.models.dir, worker.model, chosen.models.version, chosen.models.public_key)
    assert model.manifest
    if model.manifest.input_schema != worker.event.__name__:
        raise BadConfig(
            f"{model} was trained on {model.manifest.input_schema}, the worker reads {worker.event.__name__}; "
            "train the model again, or set models.version to one that fits"
        )
    return f"{model}, digest {model.digest[:12]} verified"


def _dry_run(chosen: Settings, worker: Any) -> str:
    """The worker's example through the whole engine, on the CPU and fakes of everything outside."""
    from streamer import models, testing

    model = None
    if worker.model:
        model = models.find(chosen.models.dir, worker.model, chosen.models.version, chosen.models.public_key)
    answers = testing.serve(worker, [worker.example], testing.Bench(model=model, on_error=testing.show))
    if answers.dead_letters:
        dead = answers.dead_letters[0]
        raise BadConfig(f"the example becomes a dead letter ({dead.reason}: {dead.message}); mend the worker")
    if not answers.predictions:
        raise BadConfig("accepts() declines the example; give an example that is answered")
    return f"the example is answered: {answers.predictions[0].answer.model_dump_json()}"


def _encryption(chosen: Settings) -> str:
    from streamer.privacy import encryption

    assert chosen.encryption.keys_file
    keyring = encryption.load(chosen.encryption.keys_file)
    return f"{len(keyring)} keys, {keyring.active} encrypts"


def _broker(client: Any, chosen: Settings) -> str:
    with clients.explained(client, chosen):
        brokers = client.list_topics(timeout=clients.TIMEOUT_S).brokers
    return f"{chosen.kafka.bootstrap_servers}, {len(brokers)} in the cluster"


def _topics(client: Any, chosen: Settings, worker: Any, name: str) -> Iterator[Finding]:
    source = worker.source
    needed = [source, worker.target, dead_letters(source)]
    if worker.windows and chosen.features.log_share:
        needed.append(used_features(worker.target))
    try:
        counts = clients.counts(client, chosen, needed)
    except Unreachable as error:
        yield Finding("topic", FAILED, str(error), error.code)
        return
    for topic, count in counts.items():
        if count is None:
            cure = f"make it: streamer topics apply {shlex.quote(name)}"
            yield Finding("topic", FAILED, f"{topic} is not there; {cure}", Unreachable.code)
        elif counts[source] not in (None, count):
            seen = f"{topic} has {count} partitions, {source} has {counts[source]}"
            yield Finding("topic", WARN, f"{seen}: order per key holds, but a join of both topics will not line up")
        else:
            yield Finding("topic", OK, f"{topic}, {count} partitions")


def _cache(chosen: Settings) -> str:
    if chosen.cache.url is None:
        return "this process only; set cache.url to share answers between replicas"
    from streamer.cache.redis_client import connect, why

    client = connect(chosen.cache.url.get_secret_value(), int(clients.TIMEOUT_S * 1000))
    try:
        client.ping()
    except Exception as error:  # its text may quote the URL with the password
        raise Unreachable(f"Redis does not answer: {why(error)}") from None
    return "Redis answers"
