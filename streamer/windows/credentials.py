"""Credentials under librdkafka's names, as faust's client takes them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import faust

from streamer.errors import BadConfig

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
KNOWN = {
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.cipher.suites",
}


def credentials(client: Mapping[str, str]) -> Any:
    """What `[kafka.client]` says of TLS and SASL; None for plaintext.

    Raises:
        BadConfig: it asks for something that this client cannot do, or names files that do not fit.
    """
    protocol = client.get("security.protocol", "plaintext").lower()
    context = _context(client) if protocol.endswith("ssl") else None
    if not protocol.startswith("sasl"):
        return faust.SSLCredentials(context) if context else None
    mechanism = client.get("sasl.mechanisms") or client.get("sasl.mechanism") or "PLAIN"
    if mechanism.upper() not in MECHANISMS:
        raise BadConfig(f"streamer windows cannot log in by {mechanism}; use {', '.join(MECHANISMS)}, or mTLS")
    return faust.SASLCredentials(
        username=client.get("sasl.username"),
        password=client.get("sasl.password"),
        ssl_context=context,
        mechanism=mechanism.upper(),
    )


def _context(client: Mapping[str, str]) -> ssl.SSLContext:
    if unknown := sorted(name for name in client if name.startswith("ssl.") and name not in KNOWN):
        raise BadConfig(f"streamer windows cannot use {', '.join(unknown)}; it can use {', '.join(sorted(KNOWN))}")
    try:
        context = ssl.create_default_context(cafile=client.get("ssl.ca.location"), cadata=client.get("ssl.ca.pem"))
        if certificate := client.get("ssl.certificate.location"):
            context.load_cert_chain(certificate, client.get("ssl.key.location"), client.get("ssl.key.password"))
        if ciphers := client.get("ssl.cipher.suites"):
            context.set_ciphers(ciphers)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise BadConfig(f"[kafka.client] ssl.*: {error.strerror if isinstance(error, OSError) else error}") from None
    return context
