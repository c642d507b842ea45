"""`streamer windows`: keep the windows of a worker, in a process of its own."""

from __future__ import annotations

import logging

from streamer.cli.common import ConfigFile, Sets, settings
from streamer.cli.run import WorkerName
from streamer.errors import Unreachable
from streamer.features.entities import changelog, windows_group
from streamer.kafka import clients
from streamer.kafka.rights import needs
from streamer.settings import Settings

CHATTY = ("faust", "mode", "aiokafka", "streamer.windows")
"""Loggers that report what starts and stops inside. Except at level debug, only their warnings are shown."""


def windows(worker: WorkerName, sets: Sets = None, config: ConfigFile = None) -> None:
    """Count what a worker's windows declare, for its features, until SIGTERM or Ctrl-C.

    It reads the worker's source topic in a group of its own, keeps the counts in a table with a changelog topic, and
    copies them to Redis, where the worker reads them. Start several to share the partitions.

    Example: streamer windows purchase-propensity --set cache.url=redis://localhost:6379
    """
    chosen = settings(config, sets)
    from streamer import discovery
    from streamer.telemetry import log
    from streamer.windows import running

    log.configure(chosen.log.level, chosen.log.format)
    if chosen.log.level != "debug":
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(running.__name__).setLevel(logging.INFO)
    found = discovery.find(worker)()
    group, version = chosen.kafka.group(found.name), running.declared(found).version
    topic = changelog(group, version)
    client = clients.admin(chosen)
    there = clients.counts(client, chosen, [found.source, topic], "READ")
    if missing := [name for name, count in there.items() if count is None]:
        raise Unreachable(f"there is no topic {', '.join(missing)}; make it with: streamer topics apply {worker}")
    if there[found.source] != there[topic]:
        raise Unreachable(
            f"{found.source} has {there[found.source]} partitions and {topic} {there[topic]}; both must be equal, "
            "because a count lies in the partition of its events. Give one of the worker's windows another name: then "
            f"everything is counted from the start, in a topic of its own (streamer topics apply {worker})"
        )
    _may_join(chosen, windows_group(group, version), found.source)
    clients.permitted(chosen, topic, "READ", "WRITE")
    running.run(chosen, found, there[found.source] or 0)


def _may_join(chosen: Settings, group: str, topic: str) -> None:
    """Raise `Unreachable` where faust's client would ask for ever."""
    consumer = clients.consumer(chosen, group)
    try:
        with clients.explained(consumer, chosen, needs("READ", "group", group)):
            clients.committed(consumer, topic, [0])
    finally:
        consumer.close()
