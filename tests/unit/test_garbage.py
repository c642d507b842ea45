import gc

import pytest

from streamer.garbage import BUSY_EVERY_S, IDLE_EVERY_S, QuietCollector


@pytest.fixture
def collections(monkeypatch):
    seen = []
    monkeypatch.setattr(gc, "collect", lambda: seen.append(1))
    return seen


def test_it_collects_soon_with_nothing_in_flight_and_rarely_under_load(collections):
    collector = QuietCollector()
    collector.collect(1_000.0, in_flight=5)
    assert len(collections) == 1
    collector.collect(1_000.0 + IDLE_EVERY_S, in_flight=5)
    assert len(collections) == 1
    collector.collect(1_000.0 + IDLE_EVERY_S, in_flight=0)
    assert len(collections) == 2
    collector.collect(1_000.0 + IDLE_EVERY_S + BUSY_EVERY_S, in_flight=5)
    assert len(collections) == 3


def test_once_started_nothing_collects_by_itself(collections, monkeypatch):
    calls = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(gc, "disable", lambda: calls.append("disable"))
    QuietCollector().start()
    assert calls == ["freeze", "disable"]
