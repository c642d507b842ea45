"""Signatures of models: ed25519 over `model.toml`, which pins all else. Keys are PEM files, as openssl makes them:

openssl genpkey -algorithm ed25519 -out signing.pem
openssl pkey -in signing.pem -pubout -out public.pem
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from streamer.errors import BadConfig

SIGNATURE_BYTES = 64
KEYS_MAX = 1 << 16
"""Bytes of a file of keys."""
END = b"-----END PUBLIC KEY-----"


def sign(text: bytes, private_key: Path) -> bytes:
    """The signature of `text`, 64 bytes.

    Raises:
        BadConfig: the file holds no private ed25519 key without a password.
    """
    try:
        key = load_pem_private_key(_read(private_key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadConfig(
            f"{private_key} holds no private ed25519 key without a password; "
            f"make one: openssl genpkey -algorithm ed25519 -out {private_key}"
        )
    return key.sign(text)


def verify(text: bytes, signature: bytes, public_keys: Path) -> bool:
    """Whether one of the public keys in a PEM file signed `text`. The file may hold several, the old and the new.

    Raises:
        BadConfig: the file holds no public ed25519 key, or something else too.
    """
    return any(_fits(key, text, signature) for key in _public(public_keys))


def _public(path: Path) -> list[Ed25519PublicKey]:
    parts = [part + END for part in _read(path).split(END)[:-1]]
    found = []
    for part in parts:
        try:
            found.append(load_pem_public_key(part.strip()))
        except (ValueError, UnsupportedAlgorithm):
            found = []
            break
    keys = [key for key in found if isinstance(key, Ed25519PublicKey)]
    if not keys or len(keys) != len(parts):
        raise BadConfig(
            f"{path} holds no public ed25519 keys; models.public_key takes PEM: "
            "openssl pkey -in signing.pem -pubout -out public.pem"
        )
    return keys


def _fits(key: Ed25519PublicKey, text: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEYS_MAX)
    except OSError as error:
        raise BadConfig(f"{path} cannot be read ({error.strerror}); name the PEM file of a key") from error
