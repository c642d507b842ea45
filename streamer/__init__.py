"""Exactly-once GPU inference on Kafka. What a user's own file imports is listed here, and is imported when it is asked
for: `import streamer` brings neither torch nor a Kafka client. The kit to test a worker with is `streamer.testing`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas import Event, Pii
    from streamer.days import Days
    from streamer.errors import Reason, Reject
    from streamer.models import Description, Model
    from streamer.panes import Window
    from streamer.records import BUCKETS
    from streamer.worker import Features, Tensors, Worker

__all__ = [
    "BUCKETS",
    "Days",
    "Description",
    "Event",
    "Features",
    "Model",
    "Pii",
    "Reason",
    "Reject",
    "Tensors",
    "Window",
    "Worker",
]

_HOMES = {
    "BUCKETS": "streamer.records",
    "Days": "streamer.days",
    "Description": "streamer.models",
    "Event": "schemas",
    "Features": "streamer.worker",
    "Model": "streamer.models",
    "Pii": "schemas",
    "Reason": "streamer.errors",
    "Reject": "streamer.errors",
    "Tensors": "streamer.worker",
    "Window": "streamer.panes",
    "Worker": "streamer.worker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
