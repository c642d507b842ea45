"""The feature store over a Redis that does as it is told. The real one is in tests/contracts."""

from __future__ import annotations

from typing import Any, cast

from streamer.features import RedisFeatures
from streamer.testing import ManualClock


class Dripping:
    """A Redis that knows everybody, and takes half a second to say so."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._asked = 0

    def get_connection_kwargs(self) -> dict[str, float]:
        return {"socket_timeout": 0.02}

    def pipeline(self, transaction: bool) -> Dripping:
        self._asked = 0
        return self

    def hgetall(self, name: bytes) -> None:
        self._asked += 1

    def execute(self, raise_on_error: bool) -> list[dict[bytes, bytes]]:
        self._clock.sleep(0.5)
        return [{b"bonus": b"2.5"}] * self._asked


def test_features_that_drip_in_are_used_three_times_and_then_not_asked_for() -> None:
    clock = ManualClock()
    features = RedisFeatures(cast("Any", Dripping(clock)), "w", clock, lambda count: None)
    known = {"bonus": 2.5}
    assert [features.read_many(["a", "b"]) for _ in range(5)] == [[known, known]] * 3 + [[{}, {}]] * 2
