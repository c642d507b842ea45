"""Row 22 of the fault matrix: what is wrong with a model's files is refused at the start, and never met later."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.topics import dead_letters
from streamer.settings import ModelsSettings
from tests.integration.conftest import Run
from tests.services import Kafka, create_topic, produce_many, read_topic, unique
from workers.lead_scoring.worker import LeadScoring

pytestmark = pytest.mark.timeout(240)

OWN_TOPICS = """
from workers.lead_scoring.worker import LeadScoring


class Mine(LeadScoring):
    source, target = "{0}", "{0}.scores"
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A copy of the models that comes to harm."""
    shutil.copytree(ModelsSettings().dir / "lead-scoring", tmp_path / "models" / "lead-scoring")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers = before


def cut(file: Path) -> None:
    """Half written."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def huge_header(file: Path) -> None:
    """A safetensors file that claims a header of an exabyte."""
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])


def flip(file: Path) -> None:
    """One bit."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def link(file: Path) -> None:
    """The same bytes, elsewhere."""
    moved = file.rename(file.with_suffix(".moved"))
    file.symlink_to(moved)


HARM: dict[str, Callable[[Path], object]] = {
    "junk": lambda file: file.write_bytes(b"\x00junk" * file.stat().st_size),
    "junk of the same size": lambda file: file.write_bytes(os.urandom(file.stat().st_size)),
    "pickle": lambda file: file.write_bytes(pickle.dumps({"weight": [1.0]})),
    "half written": cut,
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "huge header": huge_header,
    "one bit": flip,
    "link": link,
    "folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", ["model.safetensors", "model.toml"])
def test_a_harmed_model_is_refused_before_anything_starts(run: Run, models: Path, name: str, harm: str) -> None:
    """Row 22. Fault: a file of the model is swapped, cut or gone. Expected: `check` and `run` end with 78 and name the
    file; no model is loaded. Oracle: exit status and message."""
    if (name, harm) == ("model.toml", "one bit"):
        pytest.skip("the last bit of a manifest is white space")
    HARM[harm](models / "lead-scoring" / "v1" / name)
    for verb in ("check", "run"):
        code, out, err = run(verb, "lead-scoring", "--set", f"models.dir={models}")
        assert code == 78, out + err
        assert "lead-scoring" in out + err
        assert "Traceback" not in out + err


def test_a_swap_that_is_not_looked_for_is_noticed(run: Run, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 22, the planted bug: digests are not compared. Then a flipped bit passes, which the test above would not."""
    monkeypatch.setattr("streamer.models.folder._verify", lambda path, content, sha256: None)
    flip(models / "lead-scoring" / "v1" / "model.safetensors")
    _, out, err = run("check", "lead-scoring", "--set", f"models.dir={models}", "--json")
    findings = {one["check"]: one for one in json.loads(out)["findings"]}
    assert findings["model"]["result"] == "ok", out + err


def test_a_model_that_is_whole_is_taken(run: Run, models: Path) -> None:
    """Row 22, the other way: the copy that the tests above harm is a good one."""
    _, out, err = run("check", "lead-scoring", "--set", f"models.dir={models}", "--json")
    findings = {one["check"]: one for one in json.loads(out)["findings"]}
    assert findings["model"]["result"] == "ok", out + err


def test_the_old_model_serves_while_its_file_is_swapped(kafka: Kafka, models: Path, tmp_path: Path) -> None:
    """Row 22. Fault: the weights are swapped for junk under a running worker. Expected: it answers on with the model
    that it has verified; the next start is refused with 78. Oracle: both answers carry the same model's digest."""
    source = unique("leads")
    for topic in (source, f"{source}.scores", dead_letters(source)):
        create_topic(kafka.bootstrap, topic, 1)
    (tmp_path / "mine.py").write_text(OWN_TOPICS.format(source))
    lead = [(b"k", LeadScoring.example.model_dump_json().encode())]
    serve = f"from streamer.cli import main; import sys; sys.argv[1:] = {words(kafka, models)!r}; main()"
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-c", serve], cwd=tmp_path, stderr=log, env=environment())
        try:
            produce_many(kafka.bootstrap, source, lead)
            wait_for(kafka, f"{source}.scores", 1)
            (models / "lead-scoring" / "v1" / "model.safetensors").write_bytes(b"junk")
            produce_many(kafka.bootstrap, source, lead)
            answers = wait_for(kafka, f"{source}.scores", 2)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(40) == 0
        finally:
            worker.kill()
    again = subprocess.run(
        [sys.executable, "-c", serve], cwd=tmp_path, capture_output=True, env=environment(), check=False
    )
    assert again.returncode == 78
    assert b"model.safetensors" in again.stderr
    assert len({answer["model_digest"] for answer in answers}) == 1
    assert answers[0]["answer"] == answers[1]["answer"]


def words(kafka: Kafka, models: Path) -> list[str]:
    """The command line of the worker."""
    sets = (f"models.dir={models}", f"kafka.bootstrap_servers={kafka.bootstrap}", "http.port=0", "allow_insecure=true")
    return ["run", "mine.py:Mine", *(word for one in sets for word in ("--set", one))]


def environment() -> dict[str, str]:
    """Without settings of the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}


def wait_for(kafka: Kafka, topic: str, count: int, timeout_s: float = 60) -> list[dict[str, object]]:
    """So many answers."""
    deadline = time.monotonic() + timeout_s
    while len(found := read_topic(kafka.bootstrap, topic)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} answers"
        time.sleep(0.1)
    return [json.loads(message.value() or b"") for message in found]
