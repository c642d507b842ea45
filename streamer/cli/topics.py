"""`streamer topics`: which topics workers need, and making them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from schemas import dead_letters, used_features
from streamer.cli.common import AsJson, ConfigFile, DryRun, Sets, print_json, print_rows, settings
from streamer.features.entities import CHANGELOG, Entities, changelog
from streamer.kafka import clients
from streamer.kafka.rights import needs
from streamer.settings import Settings
from streamer.worker import Worker

PARTITIONS = 8
"""Default for a new source topic: this many replicas can share the work."""
BROKER_BYTES_MAX = 1_048_588
"""The largest message that a broker accepts by default."""

app = typer.Typer(help="Which topics workers need: plan shows, apply makes them.", no_args_is_help=True)

Workers = Annotated[list[str], typer.Argument(metavar="WORKER...", help="Workers whose topics are meant.")]
Partitions = Annotated[
    int | None,
    typer.Option("--partitions", min=1, metavar="N", help="Of new topics; default: as many as the source has, or 8."),
]
Replication = Annotated[
    int | None, typer.Option("--replication", min=1, metavar="N", help="Of new topics; default: the broker's.")
]


class Step(NamedTuple):
    """One topic and the action: create, keep, or differs (it exists with another number of partitions)."""

    topic: str
    action: str
    partitions: int
    wanted: int
    note: str


@app.command("plan")
def plan(
    workers: Workers,
    partitions: Partitions = None,
    as_json: AsJson = False,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Show what apply would do; change nothing.

    Example: streamer topics plan lead-scoring ticket-routing
    """
    chosen = settings(config, sets)
    _show(_steps(clients.admin(chosen), chosen, workers, partitions), as_json)


@app.command("apply")
def apply(
    workers: Workers,
    partitions: Partitions = None,
    replication: Replication = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    sets: Sets = None,
    config: ConfigFile = None,
) -> None:
    """Make the missing topics. An existing topic stays as it is: more partitions would move keys.

    Example: streamer topics apply lead-scoring --partitions 12 --replication 3
    """
    chosen = settings(config, sets)
    client = clients.admin(chosen)
    steps = _steps(client, chosen, workers, partitions)
    if not dry_run:
        create(client, chosen, {step.topic: step.wanted for step in steps if step.action == "create"}, replication)
    _show(steps, as_json)


def _steps(client: Any, chosen: Settings, workers: list[str], partitions: int | None) -> list[Step]:
    from streamer import discovery

    needed = [_topics(discovery.find(worker), chosen) for worker in workers]
    there = clients.counts(client, chosen, [topic for topics in needed for topic in topics])
    steps: dict[str, Step] = {}
    for topics in needed:
        wanted = partitions or there[topics[0]] or PARTITIONS
        for topic in topics:
            steps.setdefault(topic, _step(topic, there[topic], wanted))
    return list(steps.values())


def _topics(worker: type[Worker[Any, Any]], chosen: Settings) -> list[str]:
    """The topics that a worker reads and writes, that its windows keep, and that its days are made of."""
    topics = [worker.source, worker.target, dead_letters(worker.source)]
    if worker.windows:
        topics.append(changelog(chosen.kafka.group(worker.name), Entities(worker.windows).version))
        if chosen.features.log_share:
            topics.append(used_features(worker.target))
    if worker.days is not None:
        topics.append(worker.days.event.topic)
    return topics


def _step(topic: str, there: int | None, wanted: int) -> Step:
    if there is None:
        return Step(topic, "create", 0, wanted, f"{wanted} partitions")
    if there == wanted:
        return Step(topic, "keep", there, wanted, f"{there} partitions")
    return Step(topic, "differs", there, wanted, f"has {there} partitions, {wanted} wanted; left as it is")


def create(client: Any, chosen: Settings, partitions: Mapping[str, int], replication: int | None) -> None:
    """Make topics, each with its number of partitions.

    Raises:
        Unreachable: the broker refuses.
    """
    if not partitions:
        return
    new = [NewTopic(topic, n, replication or -1, config=_config(topic, chosen)) for topic, n in partitions.items()]
    for topic, done in client.create_topics(new, operation_timeout=clients.TIMEOUT_S).items():
        with clients.explained(client, chosen, needs("CREATE", "topic", topic)):
            try:
                done.result(2 * clients.TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was quicker
                    raise


def _config(topic: str, chosen: Settings) -> dict[str, str]:
    if topic.endswith(CHANGELOG):
        return {"cleanup.policy": "compact"}
    if not topic.startswith(dead_letters("")):
        return {}
    # A record as large as its topic allows must still fit with the headers that say why it is dead.
    return {"max.message.bytes": str(2 * max(BROKER_BYTES_MAX, chosen.limits.record_bytes_max))}


def _show(steps: list[Step], as_json: bool) -> None:
    if as_json:
        print_json([step._asdict() for step in steps])
    else:
        print_rows([{"topic": step.topic, "action": step.action, "note": step.note} for step in steps])
