"""The file of keys: what it may hold, who may read it, and that no key is ever shown."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from schemas import TicketEvent
from schemas.pii import HIDDEN
from streamer.cli import tail, view
from streamer.errors import BadConfig
from streamer.privacy import encryption
from streamer.privacy.encryption import Cipher
from tests.people import CANARY, Person
from tests.unit.privacy.test_encryption import NEW, OLD, RING
from tests.unit.privacy.test_pii import Seen


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


KEY = base64.b64encode(NEW).decode()


def test_the_first_key_of_a_file_is_active_and_all_of_them_open(tmp_path: Path) -> None:
    other = base64.b64encode(OLD).decode()
    ring = encryption.load(write(tmp_path / "keys", f"# ours\n\n2026-11 {KEY}  # since November\n\t2026-05\t{other}\n"))
    assert ring.active == "2026-11"
    assert len(ring) == 2
    sealed = RING._keys["old"].encrypt(bytes(12), b"x", b"here")
    assert ring.open("2026-05", bytes(12) + sealed, b"here") == b"x"


def test_no_key_is_ever_shown(tmp_path: Path) -> None:
    ring = encryption.load(write(tmp_path / "keys", f"a {KEY}"))
    for shown in (repr(ring), str(ring), repr(vars(ring)), repr(Cipher(ring, Person, "t"))):
        assert KEY[:8] not in shown
        assert repr(NEW)[3:20] not in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it has no key"),
        ("# nothing\n", "it has no key"),
        (KEY, "line 1: write an id"),
        (f"a {KEY} more", "line 1: write an id"),
        (f"a:b {KEY}", "line 1: write an id"),
        (f"ok {KEY}\n{'x' * 65} {KEY}", "line 2: write an id"),
        (f"a {KEY[:-5]}!", "no base64"),
        (f"a {base64.b64encode(NEW[:31]).decode()}", "31 bytes, not 32"),
        (f"a {base64.b64encode(NEW + NEW).decode()}", "64 bytes, not 32"),
        (f"a {KEY}\na {KEY}", "line 2: this id is there already"),
        ("# " + "x" * 70_000, "this is no keyring"),
        ("a \x00\xff", "no base64"),
    ],
)
def test_a_wrong_keyring_is_told_with_the_cure_and_without_the_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadConfig) as error:
        encryption.load(write(tmp_path / "keys", text))
    assert told in str(error.value)
    assert "encryption.keys_file" in str(error.value)
    assert KEY[:12] not in str(error.value)
    assert error.value.__cause__ is None


def test_a_keyring_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "no", tmp_path):
        with pytest.raises(BadConfig, match=r"encryption\.keys_file .*; make one with"):
            encryption.load(path)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o666, 0o644])
def test_a_keyring_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BadConfig, match="chmod 600"):
        encryption.load(write(tmp_path / "keys", f"a {KEY}", mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_keyring_of_ones_own_or_of_a_group_is_taken(tmp_path: Path, mode: int) -> None:
    assert encryption.load(write(tmp_path / "keys", f"a {KEY}", mode)).active == "a"


def test_a_keyring_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "keys", f"a {KEY}")
    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda file: os.stat_result((*real(file)[:4], 4242, *real(file)[5:])))
    with pytest.raises(BadConfig, match="others may read or change it"):
        encryption.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# The command line


def test_tail_opens_with_keys_and_still_hides_persons(tmp_path: Path) -> None:
    keys = write(tmp_path / "keys", f"new {KEY}")
    of = Cipher(encryption.load(keys), TicketEvent, TicketEvent.topic)
    value = json.dumps({"event_id": "e", "ticket_id": "t", "customer_id": CANARY, "text": CANARY}).encode()
    dead = f"dlq.{TicketEvent.topic}"
    for topic, sealed in ((TicketEvent.topic, of.seal_fields(value)), (dead, of.seal(value))):
        shown = tail.as_object(Seen(sealed), view.masked(topic, keys))["value"]
        assert shown == {"event_id": "e", "ticket_id": "t", "customer_id": HIDDEN, "text": HIDDEN}
        assert tail.as_object(Seen(sealed), view.whole(topic, keys))["value"] == json.loads(value)
        assert CANARY not in str(tail.as_object(Seen(sealed), view.whole(topic, None))["value"])
