"""AES-256-GCM of personal data: tagged fields on their way to a worker, dead letters on their way out.

In JSON an encrypted value is an object of one text, `{"enc": "enc:1:<key id>:<base64 of nonce, ciphertext, tag>"}`,
whatever type the value had. Only a mapping field takes such an object for a value, so a worker without the keys
refuses it instead of answering ciphertext. No text that a customer writes can pass for it. A whole record is
`enc:1:<key id>:<bytes>`; no JSON begins like that.

The place of a value is authenticated with it: topic, class of the event, path of the field. So an encrypted value that
is moved elsewhere, or changed by a bit, does not open.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas import Event
from schemas.pii import tags
from streamer.errors import BadConfig, Reason, Reject
from streamer.privacy import pii
from streamer.privacy.pii import Path

WORD = "enc"
PREFIX = "enc:1:"
INSIDE = b'"enc:1:'
"""The JSON of an event with an encrypted field holds this somewhere."""
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
FILE_BYTES_MAX = 65_536
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OTHERS = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO

NEW_KEY = 'echo "2026-11 $(openssl rand -base64 32)" >> keys && chmod 600 keys'


class Keyring:
    """Keys by their ids: `active` encrypts, all of them decrypt.

    Nonces are random, so one key is good for 2^32 values (NIST SP 800-38D, 8.3). A record of five tagged fields counts
    as five. Add the next key well before the limit.
    """

    def __init__(self, active: str, keys: Mapping[str, bytes]) -> None:
        self.active = active
        self._keys = {name: AESGCM(key) for name, key in keys.items()}

    def __repr__(self) -> str:
        return f"Keyring(active={self.active!r}, keys={len(self)})"

    def __len__(self) -> int:
        return len(self._keys)

    def seal(self, plain: bytes, where: bytes) -> bytes:
        """Nonce, ciphertext and tag under the active key."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._keys[self.active].encrypt(nonce, plain, where)

    def open(self, key_id: str, sealed: bytes, where: bytes) -> bytes:
        """The sealed value.

        Raises:
            Reject: there is no such key, or this value was not sealed for this place.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise _refused("its key is not in the keyring; add the key that its id names to encryption.keys_file")
        try:
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], where)
        except (InvalidTag, ValueError):  # ValueError: too short to be one
            raise _refused("it was changed, or encrypted for another place or by another key of this id") from None


def load(path: FilePath) -> Keyring:
    """Read a keyring. Each line is a key, `<id> <32 bytes as base64>`; the first is active, and `#` begins a comment.

    Raises:
        BadConfig: it cannot be read, others may read it, or a line is wrong; the message holds no key.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadConfig(f"encryption.keys_file {path}: {error.strerror}; make one with: {NEW_KEY}") from None
    if found.st_mode & OTHERS or found.st_uid not in (0, os.geteuid()):
        raise BadConfig(f"encryption.keys_file {path}: others may read or change it; chmod 600 it, or 640 for a group")
    if len(text) > FILE_BYTES_MAX:
        raise BadConfig(f"encryption.keys_file {path}: more than {FILE_BYTES_MAX} bytes; this is no keyring")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            key_id, key = _key(words, f"encryption.keys_file {path}, line {number}")
            if key_id in keys:
                raise BadConfig(
                    f"encryption.keys_file {path}, line {number}: this id is there already; give each key its own id"
                )
            keys[key_id] = key
    if not keys:
        raise BadConfig(f"encryption.keys_file {path}: it has no key; add one with: {NEW_KEY}")
    return Keyring(next(iter(keys)), keys)


def cipher(path: FilePath | None, event: type[Event], topic: str) -> Cipher | None:
    """The cipher of a topic with the keys of a file; None where no file is set.

    Raises:
        BadConfig: as `load`.
    """
    return None if path is None else Cipher(load(path), event, topic)


class Cipher:
    """Encrypts and decrypts the records of one topic, whose events are of one class."""

    def __init__(self, keyring: Keyring, event: type[Event], topic: str) -> None:
        self._keyring = keyring
        self._tags = [tags(event)]
        self._names = pii.field_names(event)
        self._place = f"{topic}|{event.__name__}|"

    def seal_fields(self, value: bytes) -> bytes:
        """The JSON of an event with every tagged value encrypted.

        Raises:
            ValueError: this is no JSON.
        """
        return _dump(pii.replaced(json.loads(value), self._tags, self._seal_field))

    def open(self, value: bytes) -> bytes:
        """The record as it was before it was encrypted, whole or in fields. A plain record stays as it is.

        Raises:
            Reject: a part of it does not decrypt.
        """
        while value.startswith(PREFIX.encode()):
            value = self._open_whole(value)
        if INSIDE not in value:
            return value
        try:
            return _dump(pii.replaced(json.loads(value.decode()), self._tags, self._open_field))
        except (ValueError, RecursionError):  # the reader of the value will say what is wrong
            return value

    def seal(self, value: bytes) -> bytes:
        """A whole record, encrypted. A record that is encrypted already stays as it is."""
        if value.startswith(PREFIX.encode()):
            try:
                self._open_whole(value)
                return value
            except Reject:
                pass
        head = f"{PREFIX}{self._keyring.active}:".encode()
        return head + self._keyring.seal(value, self._where(None))

    def _open_whole(self, value: bytes) -> bytes:
        key_id, colon, sealed = value[len(PREFIX) :].partition(b":")
        if not colon:
            raise Reject(Reason.NOT_DECRYPTED, f"the value: begins with {PREFIX} but is no encrypted record")
        try:
            return self._keyring.open(key_id.decode(errors="replace"), sealed, self._where(None))
        except Reject as error:
            raise Reject(error.reason, f"the value: {error.message}") from None

    def _seal_field(self, path: Path, value: Any) -> dict[str, str]:
        sealed = self._keyring.seal(_dump(value), self._where(path))
        return {WORD: f"{PREFIX}{self._keyring.active}:{base64.b64encode(sealed).decode()}"}

    def _open_field(self, path: Path, value: Any) -> Any:
        if not is_sealed(value):
            return value
        where = ".".join(str(part) if isinstance(part, int) or part in self._names else "*" for part in path)
        key_id, _, text = value[WORD].removeprefix(PREFIX).partition(":")
        try:
            sealed = base64.b64decode(text, validate=True)
            return json.loads(self._keyring.open(key_id, sealed, self._where(path)))
        except Reject as error:
            raise Reject(error.reason, f"{where}: {error.message}") from None
        except ValueError:
            raise Reject(Reason.NOT_DECRYPTED, f"{where}: the encrypted text is no base64") from None

    def _where(self, path: Path | None) -> bytes:
        return (self._place + json.dumps(path)).encode()


def is_sealed(value: Any) -> bool:
    """Whether a JSON value is an encrypted one."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    text = value.get(WORD)
    return isinstance(text, str) and text.startswith(PREFIX)


def holds_sealed(value: bytes) -> bool:
    """Whether a record, or a value in its JSON, is encrypted: then it cannot be read unless something decrypts it."""
    if value.startswith(PREFIX.encode()):
        return True
    if INSIDE not in value:
        return False
    try:
        todo = [json.loads(value)]
    except (ValueError, RecursionError):
        return False
    while todo:
        part = todo.pop()
        if is_sealed(part):
            return True
        todo += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return False


def _key(words: list[str], where: str) -> tuple[str, bytes]:
    if len(words) != 2 or not KEY_ID.fullmatch(words[0]):
        raise BadConfig(f"{where}: write an id (letters, digits, . _ -), a blank and a key; such as {NEW_KEY}")
    try:
        key = base64.b64decode(words[1], validate=True)
    except ValueError:
        raise BadConfig(f"{where}: the key is no base64; make one with: openssl rand -base64 32") from None
    if len(key) != KEY_BYTES:
        raise BadConfig(f"{where}: the key has {len(key)} bytes, not 32; make one with: openssl rand -base64 32")
    return words[0], key


def _refused(why: str) -> Reject:
    return Reject(Reason.NOT_DECRYPTED, why)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
