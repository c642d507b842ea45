"""Why the broker refuses a client, in words for the person who can mend it: a missing right, a password, a certificate.

The client's error names neither the right nor the file. So a refused reader or writer asks the broker and names it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from streamer.clock import Clock, Deadline, SystemClock

GRANT = "grant it to this user (deploy/acls.sh lists every right)"
NO_TOPIC = "make the topics: streamer topics apply"
TOKEN = ("OAUTHBEARER token", "OIDC token")
PASSING = ("Local: ", "Disconnected", "timed out", "Timed out")
"""A connection that is lost during authentication is no refusal."""
OF_CERTIFICATES = (
    "bad certificate",
    "certificate",
    "unsupported certificate",
    "unknown ca",
    "access denied",
    "handshake failure",
)
"""Alerts of TLS (RFC 8446, 6.2) that time does not cure, as OpenSSL writes them."""
PROBE_S = 2.0
ANSWER_S = 1.0
"""How long a healthy broker may take for a small answer."""
SILENT_S = 10.0
"""When one broker has refused us and none has answered for this long, the refusal is final."""
DOUBT_S = 5.0
"""After this long without an answer, ask for one: the topic may just be idle."""
STANDS_S = 60.0
"""A refusal that is not repeated for this long no longer counts: the client connects again every 10 s, and reports the
same error once in 30 s."""

Forbidden = Callable[[Mapping[str, Any], Sequence[str], float], str]
"""Returns which right to write to these topics is missing; empty when none is."""


def needs(operation: str, resource: str, name: str) -> str:
    """The ACL to grant, in words."""
    return f"needs {operation} on {resource} {name}; {GRANT}"


def forbidden(config: Mapping[str, Any], topics: Sequence[str], timeout_s: float, operation: str = "WRITE") -> str:
    """Which of `topics` do not allow `operation` to the client of `config`, by the broker's word. Empty when all do, or
    when the broker does not answer within `timeout_s`.

    A failed delivery does not name the refused topic, and a callback for each message would cost too much.
    """
    if not topics:
        return ""
    own = {name: value for name, value in config.items() if not callable(value) and name not in ("logger", "error_cb")}
    deadline = Deadline(SystemClock(), timeout_s)
    try:
        # A client that is discarded while a broker owes it an answer takes a whole core until the answer is overdue.
        overdue = {"socket.timeout.ms": str(max(10, round(1000 * timeout_s)))}
        client = AdminClient({**own, **overdue, "log_level": 0})
        asked = client.describe_topics(
            TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=timeout_s
        )
        missing = [topic for topic, answer in asked.items() if not _allows(answer, operation, deadline.left())]
    except (KafkaException, TimeoutError):
        return ""
    return "; ".join(needs(operation, "topic", topic) for topic in missing)


def _allows(answer: Any, operation: str, timeout_s: float) -> bool:
    try:
        allowed = answer.result(timeout_s).authorized_operations
        return not allowed or AclOperation[operation] in allowed  # another kind of broker reports none
    except KafkaException as error:
        return bool(error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED)


def answers(client: Any, topic: str) -> bool:
    """Whether any broker answers this client of Kafka, within a second."""
    try:
        client.list_topics(topic, timeout=ANSWER_S)
    except KafkaException:
        return False
    return True


class Refusal:
    """The refusal of one broker while others admit the client: fatal only when no broker answers any more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._why: str | None = None
        self._said_at = float("-inf")
        self._silent_since = float("-inf")

    def said(self, why: str) -> None:
        """A broker refuses us."""
        now = self._clock.now()
        if not self._stands():
            self._silent_since = now  # earlier silence belongs to another outage
        self._why, self._said_at = why, now

    def heard(self) -> None:
        """A broker has answered."""
        self._silent_since = self._clock.now()

    def doubtful(self) -> bool:
        """Whether some broker should be asked for an answer."""
        return self._stands() and self._clock.now() - self._silent_since >= DOUBT_S

    def final(self) -> str | None:
        """What is wrong and the cure, when no broker admits us any more. A refusal from before the last answer of a
        broker may have been mended since; one that lasts is reported again."""
        silent = self._said_at >= self._silent_since and self._clock.now() - self._silent_since >= SILENT_S
        return self._why if silent and self._stands() else None

    def _stands(self) -> bool:
        return self._clock.now() - self._said_at < STANDS_S


def is_token(said: str) -> bool:
    """Whether the token server refuses or does not answer: a client that has a token can go on for a while."""
    return any(word in said for word in TOKEN)


def refused(said: str, client: Mapping[str, Any]) -> str | None:
    """What is wrong with our credentials, or with the broker's certificate, and the cure; None for any other error.

    `said` is the text of librdkafka's error, `client` its settings.
    """
    if is_token(said):
        return f"no token: {said}; see sasl.oauthbearer.client.id and .secret, token.endpoint.url and https.ca.location"
    if any(word in said for word in PASSING):
        return None
    if "SASL" in said:
        if "mechanism" in said and "Unsupported" in said:
            return f"{said}; set sasl.mechanisms to one of these"
        return (
            f"{said}; mend sasl.username and sasl.password (or its file, sasl.password_file) in [kafka.client], or "
            "give the broker this user"
        )
    if "certificate verify failed" in said:
        return f"the broker's certificate is not accepted: {_why_not_verified(said, client)}"
    if "SSL routines" in said and any(f"alert {word}" in said for word in OF_CERTIFICATES):
        return (
            f"the broker does not accept our certificate ({said}); set ssl.certificate.location and ssl.key.location "
            "to one that it knows and that has not expired"
        )
    return None


def _why_not_verified(said: str, client: Mapping[str, Any]) -> str:
    """librdkafka does not distinguish an unknown authority from a wrong name: check the certificate again."""
    host, _, port = said.partition("://")[2].partition("/")[0].rpartition(":")
    cure = "set ssl.ca.location to the authority that signed it, and kafka.bootstrap_servers to a name that is in it"
    try:
        context = ssl.create_default_context(cafile=client.get("ssl.ca.location"), cadata=client.get("ssl.ca.pem"))
        address = host.strip("[]"), int(port)
        with (
            socket.create_connection(address, PROBE_S) as line,
            context.wrap_socket(line, server_hostname=address[0]),
        ):
            return f"{said}; {cure}"
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return f"{host}:{port}: {error.verify_message}; renew the broker's certificate, or set this machine's clock"
        if error.verify_code in _OTHER_NAME:
            return f"{error.verify_message}; set kafka.bootstrap_servers, or the broker's listeners, to a name in it"
        return f"{host}:{port}: {error.verify_message}; set ssl.ca.location to the authority that signed it"
    except (OSError, ValueError):
        return f"{said}; {cure}"


_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
