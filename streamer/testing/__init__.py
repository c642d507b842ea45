"""Try a worker, or the engine, without a broker, a GPU or a wait.

    answers = serve(MyWorker(), [event, CRASH, event])
    assert answers.predictions[0].answer.probability > 0.5

Everything of the engine is real except the network and the clock. The script lists what arrives: events, raw bytes,
whole records, and the markers CRASH (the process dies; a new one starts from the committed offsets), REVOKE and LOSE
(the group takes the partitions away and gives them back) and PAUSE (nothing arrives for a while).

serving  runs the script above on an engine that is built from fakes, and returns what it published
fakes    source, sink, cache, features, runner and clock of a test
"""

from streamer.device.failures import show
from streamer.testing.fakes import (
    CRASH,
    LOSE,
    PAUSE,
    REVOKE,
    Crash,
    FakeCache,
    FakeCommitter,
    FakeFeatures,
    FakeKafka,
    FakeRunner,
    FakeSink,
    FakeSource,
    Fault,
    ManualClock,
    Marker,
)
from streamer.testing.serving import Answers, Bench, live, published, records, serve

__all__ = [
    "CRASH",
    "LOSE",
    "PAUSE",
    "REVOKE",
    "Answers",
    "Bench",
    "Crash",
    "FakeCache",
    "FakeCommitter",
    "FakeFeatures",
    "FakeKafka",
    "FakeRunner",
    "FakeSink",
    "FakeSource",
    "Fault",
    "ManualClock",
    "Marker",
    "live",
    "published",
    "records",
    "serve",
    "serving",
    "show",
]
