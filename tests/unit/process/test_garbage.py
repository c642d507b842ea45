import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.process.garbage import ARENAS, BUSY_EVERY_S, IDLE_EVERY_S, QuietCollector

ROOT = Path(__file__).resolve().parents[3]


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


POOLS = """
import ctypes, sys, threading
from streamer.process.garbage import few_arenas
if sys.argv[1] == "few":
    few_arenas()
all_at_once = threading.Barrier(32)
def take():
    all_at_once.wait()
    kept = [bytes(2_000) for _ in range(100)]
    all_at_once.wait()
threads = [threading.Thread(target=take) for _ in range(32)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
"""


def pools(how):
    env = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", POOLS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such pools")
def test_threads_share_two_pools_of_memory():
    assert pools("few") <= ARENAS < pools("many")


HOLES = """
from pathlib import Path
from streamer.process.garbage import QuietCollector

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

before = pages()
blocks = [bytes(30_000) for _ in range(4_000)]
full = pages() - before
kept = blocks[::40] + blocks[-1:]
del blocks
holes = pages() - before
QuietCollector().collect(1_000.0, in_flight=5)
print(full, holes, pages() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another way")
def test_what_is_free_is_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, cwd=ROOT)
    full, holes, after = map(int, done.stdout.split())
    assert holes > 0.9 * full, "the C library keeps what lies between what is used"
    assert after < 0.2 * full
