"""What `cache.url` may hold, and whether others can read along. Nothing here quotes the password."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from streamer.settings.kafka_names import is_loopback

SCHEMES = ("redis", "rediss", "unix")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS = (*FILES, "ssl_password")
CHECKED = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_exclude_verify_flags", "ssl_min_version", "ssl_ciphers")


def problem(url: str) -> str | None:
    """What is wrong with this address, and the cure; None when it is good.

    This is an allow-list, because redis-py takes any argument of its client from an address, timeouts included.
    """
    try:
        parts = urlsplit(url)
        names = parse_qs(parts.query, keep_blank_values=True)
        _ = parts.port
    except ValueError:
        return "is no address; write %XX for each of /:?#[]@% in user and password"
    if parts.scheme not in SCHEMES or not url.startswith(f"{parts.scheme}://"):
        return "must start with redis://, rediss:// (TLS) or unix://"
    if parts.fragment or url.endswith("#"):
        return "holds a #; in user and password write %23"
    if parts.scheme == "unix":
        if not parts.path:
            return "names no socket; write unix:///path/of/the/socket"
    elif parts.path.strip("/") and not parts.path[1:].isdecimal():
        return "must end in the number of a database; write redis://host:port/0"
    return next((said for name in names if (said := _query_problem(parts.scheme, name))), None)


def _query_problem(scheme: str, name: str) -> str | None:
    if name in CHECKED:
        return f"may not set {name}: the server's certificate is always checked; name its authority by ssl_ca_certs"
    allowed = ("db", *TLS) if scheme == "rediss" else ("db",)
    if name in allowed:
        return None
    if name in TLS:
        return f"sets {name}, which needs rediss://"
    # The name itself may be a part of a password with a ? in it.
    return f"may set only {', '.join(allowed)} after the ?; in user and password write %3F for a ?"


def place(url: str) -> str:
    """Where the server is, without user and password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    return f"{_host(parts)}:{parts.port or 6379}"


def is_local(url: str) -> bool:
    """Whether the traffic stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "unix" or is_loopback(_host(parts))


def is_encrypted(url: str) -> bool:
    """Whether the line is TLS."""
    return urlsplit(url).scheme == "rediss"


def files(url: str) -> list[tuple[str, str]]:
    """Names and paths of the files that a connection will read."""
    query = parse_qs(urlsplit(url).query)
    return [(name, query[name][0]) for name in FILES if name in query]


def _host(parts: SplitResult) -> str:
    host = unquote(parts.hostname or "localhost")  # as redis-py reads it
    return f"[{host}]" if ":" in host else host
