"""Wiring: settings and a worker class become a running engine."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from functools import partial
from types import FrameType
from typing import Any

import msgspec
import structlog
import torch
from prometheus_client import CollectorRegistry

from schemas import used_features
from schemas.pii import tags
from streamer import models
from streamer.cache.answers import ContentKey, NearCache, Payoff, RedisCache
from streamer.cache.redis_client import connect
from streamer.clock import Clock, Deadline, SystemClock
from streamer.device.devices import bound_memory
from streamer.device.failures import ignore, show
from streamer.device.graphs import worth_recording
from streamer.device.runner import Inference, ThreadRunner
from streamer.engine.attempts import Attempts, FileStore, MemoryStore
from streamer.engine.batcher import Batcher, CostModel
from streamer.engine.checkpoint import CommitPolicy
from streamer.engine.committer import ThreadCommitter
from streamer.engine.loop import Engine, Limits, Parts
from streamer.errors import BadConfig, Exit, Internal, Refused, Unreachable, Wait
from streamer.features.entities import Entities
from streamer.features.log import FeatureLog
from streamer.features.reading import NoFeatures, RedisFeatures, WindowFeatures
from streamer.kafka.at_least_once import AtLeastOnceSink
from streamer.kafka.exactly_once import TransactionalSink
from streamer.kafka.ranged import RangedSource, Span
from streamer.kafka.source import KafkaSource
from streamer.models import Model
from streamer.ports import Cache, FeatureStore, Sink, Source
from streamer.privacy import encryption
from streamer.process import slot
from streamer.process.garbage import QuietCollector, few_arenas
from streamer.process.watchdog import Watchdog
from streamer.records import BatchPolicy, Rejected
from streamer.settings import Settings
from streamer.settings.loading import client_config
from streamer.telemetry.health import STALE_S, Health, HealthServer
from streamer.telemetry.log import keep_out
from streamer.telemetry.metrics import Metrics
from streamer.wire.codec import ENVELOPE_BYTES_MAX, Identity, JsonCodec
from streamer.worker import Worker

log = structlog.get_logger(__name__)

WARM_UP_SIZES = (1, 8)
SWITCH_S = 0.0002
"""How long a thread may keep the interpreter while the other waits for it. The runner waits after each call of torch;
with Python's 5 ms it takes 6.6 us an event instead of 4 on a small model, and throughput falls by an eighth."""
WATCHDOG_GRACE_S = 5.0
"""After a batch's own timeout, which tells more than a watchdog."""
DEFAULT_SECRET = b"streamer"  # on this machine, or where plaintext is trusted; elsewhere cache.secret must be set


def run(settings: Settings, worker: Worker[Any, Any], span: Span | None = None) -> None:
    """Serve until a signal, or the end of a span, then drain.

    Raises:
        Exit: the process cannot go on.
    """
    few_arenas()
    clock = SystemClock()
    device = choose_device(settings.device)
    bound_memory(device, settings.gpu.memory_max)
    torch.set_num_threads(1)  # a worker scales by replicas; more threads would fight over the cores they share
    model = load(settings, worker, device)
    watchdog = Watchdog(max(STALE_S, settings.batch.timeout_s + WATCHDOG_GRACE_S))
    health = Health(clock, watchdog.beat)
    metrics = Metrics(worker.name, model.version, CollectorRegistry())
    server = HealthServer(
        settings.http.host, settings.http.port, health, metrics.text, token=_token(settings), drain=_terminate
    )
    server.start()
    structlog.contextvars.bind_contextvars(worker=worker.name, model_version=model.version)
    keep_out(tags(worker.event).names())
    runner, inference = _runner(settings, worker, device)
    metrics.watch(inference.stopwatch)
    warm_up(worker, inference)
    graphs = record_graphs(worker, inference, batch_policy(settings))
    health.warm()
    log.info("model is warm", device=str(device), digest=model.digest[:12], http_port=server.port, graphs=graphs)
    garbage = QuietCollector()
    source = _source(settings, worker, span)
    parts = _parts(settings, worker, model, runner, source, clock, metrics, health)
    parts = msgspec.structs.replace(parts, garbage=garbage)
    engine = Engine(parts, limits(settings), commit_policy(settings))
    _stop_on_signals(engine)
    if span is not None:
        threading.Thread(target=span.watch, args=(engine.stop,), name="span", daemon=True).start()
    garbage.start()
    sys.setswitchinterval(SWITCH_S)
    try:
        serve(engine)
    finally:
        watchdog.close()
        server.close()
    log.info("stopped")


def serve(engine: Engine) -> None:
    """Let the engine run to its end.

    Raises:
        Exit: the process cannot go on. The text of an unexpected error may quote an event, so it ends here.
    """
    try:
        engine.run()
    except Exit:
        raise
    except (Exception, SystemExit) as error:  # a model's library may call sys.exit
        log.exception("unexpected error")
        raise Internal(f"unexpected {type(error).__name__}: a bug; its stack is in the log") from None


def choose_device(wanted: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        BadConfig: a GPU is asked for and there is none.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type != "cuda":
        return device
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise BadConfig(f"device {wanted!r}: torch sees {torch.cuda.device_count()} GPUs; set device to cpu or auto")
    return torch.device("cuda", index)


def load(settings: Settings, worker: Worker[Any, Any], device: torch.device) -> Model:
    """Find and verify the worker's model, and bring it to the device."""
    model = Model.none(worker.name)
    if worker.model:
        chosen = settings.models
        model = models.find(chosen.dir, worker.model, chosen.version, chosen.public_key)
    worker.load(model, device)
    return model


def warm_up(worker: Worker[Any, Any], inference: Inference) -> None:
    """Run the worker's example, so that no first event pays for lazy initialisation and no bad model serves.

    Raises:
        BadConfig: the model does not answer the example.
    """
    for size in WARM_UP_SIZES:
        with inference.telling(show):  # the example is no personal data
            outcomes = inference.run([worker.example] * size)
        first = outcomes[0]
        if isinstance(first, Rejected):
            raise BadConfig(f"{worker.name} does not answer its own example: {first.reason}, {first.message}")


def record_graphs(worker: Worker[Any, Any], inference: Inference, policy: BatchPolicy) -> int:
    """Let the device record the runs that come again and again, if worker and device can. Returns how many it has."""
    return inference.record(worth_recording(worker, policy))


def limits(settings: Settings) -> Limits:
    """The engine's bounds."""
    return Limits(
        in_flight_max=settings.limits.in_flight_max,
        in_flight_bytes_max=settings.limits.in_flight_bytes_max,
        dead_ratio_max=settings.dead_letters.ratio_max,
        dead_run_max=settings.dead_letters.run_max,
        drain_s=settings.drain_s,
    )


def commit_policy(settings: Settings) -> CommitPolicy:
    """When to commit. At-least-once publishes before it commits, so a commit is not urgent."""
    interval_s = settings.commit_interval_ms / 1000
    if settings.delivery == "at_least_once":
        return CommitPolicy(interval_s=interval_s, gap_s=interval_s)
    return CommitPolicy(interval_s=interval_s)


def _runner(settings: Settings, worker: Worker[Any, Any], device: torch.device) -> tuple[ThreadRunner, Inference]:
    bytes_max = settings.limits.record_bytes_max - ENVELOPE_BYTES_MAX
    inference = Inference(worker, device, bytes_max, show if settings.log.errors == "full" else ignore)
    return ThreadRunner(inference, settings.batch.timeout_s), inference


def _parts(
    settings: Settings,
    worker: Worker[Any, Any],
    model: Model,
    runner: ThreadRunner,
    source: Source,
    clock: Clock,
    metrics: Metrics,
    health: Health,
) -> Parts:
    group = settings.kafka.group(worker.name)
    replica = settings.kafka.slot or slot.take(group)
    costs = CostModel()
    cache, features = _redis(settings, worker, costs, clock, metrics)
    policy = batch_policy(settings)
    runner.start()
    return Parts(
        worker=worker,
        source=source,
        sink=_sink(settings, worker, replica, source, clock),
        committer=ThreadCommitter(clock),
        codec=JsonCodec(
            worker,
            Identity(worker.name, model.version, model.digest, group),
            clock,
            settings.limits.record_bytes_max,
            encryption.cipher(settings.encryption.keys_file, worker.event, worker.source),
            _feature_log(settings, worker),
        ),
        cache=cache,
        content_key=ContentKey(_secret(settings), worker.name, model.digest, _schema(worker)),
        features=features,
        batcher=Batcher(policy, costs),
        costs=costs,
        runner=runner,
        clock=clock,
        metrics=metrics,
        health=health,
        attempts=_attempts(group, replica),
        goal_s=policy.goal_s,
    )


def _source(settings: Settings, worker: Worker[Any, Any], span: Span | None) -> Source:
    group = settings.kafka.group(worker.name)
    client = {**client_config(settings), "group.id": group, "client.id": group}
    if span is not None:
        return RangedSource(client, worker.source, span.ends)
    return KafkaSource(client, worker.source, settings.kafka.start)


def _feature_log(settings: Settings, worker: Worker[Any, Any]) -> FeatureLog | None:
    if not worker.windows or not settings.features.log_share:
        return None
    return FeatureLog(worker.name, used_features(worker.target), settings.features.log_share)


def _schema(worker: Worker[Any, Any]) -> str:
    """The schema of the answer: after a change of it the cache must not return answers of the old form."""
    return json.dumps(worker.answer.model_json_schema(), sort_keys=True)


def batch_policy(settings: Settings) -> BatchPolicy:
    """The batcher's limits."""
    batch = settings.batch
    default = BatchPolicy()
    return BatchPolicy(
        items_max=batch.items_max,
        cost_max=batch.cost_max or default.cost_max,
        linger_s=batch.linger_ms / 1000,
        goal_s=batch.latency_goal_ms / 1000 if batch.latency_goal_ms is not None else None,
    )


def _attempts(group: str, replica: str) -> Attempts:
    try:
        return Attempts(FileStore(slot.file(group, f"{replica}.attempts")))
    except OSError as error:  # a full disk, say: no reason not to serve
        log.error(
            "no attempt file: a record that kills the process will not be found out; free the disk or set TMPDIR, "
            "and give each replica its own kafka.slot",
            error=str(error),
        )
        return Attempts(MemoryStore())


def _sink(settings: Settings, worker: Worker[Any, Any], replica: str, source: Source, clock: Clock) -> Sink:
    group = settings.kafka.group(worker.name)
    config = {**client_config(settings), "client.id": group}
    if settings.delivery == "at_least_once":
        return AtLeastOnceSink(config, source, clock)
    sink = TransactionalSink(config, f"{group}.{replica}", source, worker.source, clock)
    _begin(sink, clock)
    return sink


def _begin(sink: TransactionalSink, clock: Clock) -> None:
    """End the open transaction of a predecessor before this replica joins the group. Waits for a broker that is
    down."""
    while True:
        try:
            return sink.recover(Deadline(clock, 5.0))
        except Refused as error:
            raise Unreachable(str(error)) from error
        except Wait as error:
            log.warning("waiting for the broker", error=str(error))
            clock.sleep(1.0)


def _redis(
    settings: Settings, worker: Worker[Any, Any], costs: CostModel, clock: Clock, metrics: Metrics
) -> tuple[Cache, FeatureStore]:
    near = NearCache(clock, settings.cache.near_max, settings.cache.ttl_s)
    if settings.cache.url is None:
        if worker.windows:
            raise BadConfig(f"{worker.name} reads its windows from Redis: set cache.url, as streamer windows has it")
        return near, NoFeatures()
    client = connect(settings.cache.url.get_secret_value(), settings.cache.timeout_ms)
    payoff = Payoff(lambda: costs.per_item_s)
    cache = RedisCache(
        client,
        near,
        payoff,
        clock=clock,
        secret=_secret(settings),
        ttl_s=settings.cache.ttl_s,
        bad_values=partial(metrics.redis_bad_values, "answer"),
    )
    bad_values = partial(metrics.redis_bad_values, "features")
    if worker.windows:
        return cache, WindowFeatures(client, worker.name, Entities(worker.windows), clock, bad_values)
    return cache, RedisFeatures(client, worker.name, clock, bad_values)


def _secret(settings: Settings) -> bytes:
    secret = settings.cache.secret
    return secret.get_secret_value().encode() if secret else DEFAULT_SECRET


def _token(settings: Settings) -> str | None:
    token = settings.http.token
    return token.get_secret_value() if token else None


def _terminate() -> None:
    """What `POST /drain` does, at any stage of the process: the same as SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_on_signals(engine: Engine) -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)  # safe: what was not committed is read again

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, leave)
        engine.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
