"""Wiring: settings and a worker class become a running windows process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from schemas.pii import tags
from streamer.cache.redis_client import connect
from streamer.clock import SystemClock
from streamer.errors import BadConfig, Exit, Internal
from streamer.features.entities import Entities, windows_group
from streamer.privacy import encryption
from streamer.process import slot
from streamer.settings import Settings
from streamer.settings.loading import client_config
from streamer.telemetry.health import Health, HealthServer
from streamer.telemetry.log import keep_out
from streamer.telemetry.metrics import WindowMetrics
from streamer.windows.keeper import Keeper
from streamer.windows.service import Service, build
from streamer.windows.shelf import Shelf
from streamer.wire.reading import EventReader
from streamer.worker import Worker, overrides

log = structlog.get_logger(__name__)

REDIS_TIMEOUT_MS = 1_000
"""A worker must answer at once; this process has time, and writes much at a time."""


def declared(worker: Worker[Any, Any]) -> Entities:
    """The windows of a worker.

    Raises:
        BadConfig: it declares none, or does not say which entity they count by.
    """
    if not worker.windows:
        raise BadConfig(f"{worker.name} declares no windows; give its class `windows = (Window(...), ...)`")
    if not overrides(worker, "feature_key"):
        raise BadConfig(f"{worker.name} has windows but no feature_key(); let it return the entity that they count by")
    return Entities(worker.windows)


def run(settings: Settings, worker: Worker[Any, Any], partitions: int) -> None:
    """Keep a worker's windows until a signal. `partitions` are those of its source topic.

    Raises:
        Exit: the process cannot go on.
    """
    entities = declared(worker)
    if settings.cache.url is None:
        raise BadConfig("windows are shown in Redis: set cache.url, such as redis://127.0.0.1:6379")
    clock, health = SystemClock(), Health()
    metrics = WindowMetrics(worker.name, CollectorRegistry())
    server = HealthServer(settings.http.host, settings.http.port, health, metrics.text)
    server.start()
    structlog.contextvars.bind_contextvars(worker=worker.name, windows=entities.version)
    keep_out(tags(worker.event).names())
    group = windows_group(settings.kafka.group(worker.name), entities.version)
    keys = encryption.cipher(settings.encryption.keys_file, worker.event, worker.source)
    keeper = Keeper(worker, entities, EventReader(worker.event, settings.limits.record_bytes_max, keys))
    folder = slot.file(group, f"{settings.kafka.slot or slot.take(group)}.tables")
    shelf = Shelf(
        connect(settings.cache.url.get_secret_value(), REDIS_TIMEOUT_MS), worker.name, entities.version, clock
    )

    async def serve() -> None:
        app = build(group, client_config(settings), folder, partitions)
        service = Service(app, worker.source, keeper, shelf, metrics, health, settings.drain_s)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, service.stop)
        health.warm()
        log.info("windows begin", group=group, tables=str(folder), http_port=server.port)
        try:
            await service.run()
        except Exit as error:
            _end(error)
        except Exception as error:  # its text may quote an event
            log.exception("unexpected error")
            _end(Internal(f"windows: unexpected {type(error).__name__}: a bug; its stack is in the log"))

    asyncio.run(serve())
    server.close()
    log.info("stopped")


def _end(error: Exit) -> None:
    """End the process at once, as its threads would not."""
    print(f"streamer: {error}", file=sys.stderr, flush=True)
    logging.shutdown()  # which writes the warnings that were counted
    os._exit(error.code)
