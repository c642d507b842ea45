"""What cache.url may say, and that a wrong one is refused without being quoted."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from pydantic import ValidationError

from streamer.errors import BadConfig
from streamer.settings import Settings
from streamer.settings.loading import load
from streamer.settings.redis_url import place, problem

SECRET = "0123456789abcdef"

GOOD = [
    "redis://localhost",
    "redis://:p%2Fw@localhost:6379/15",
    "redis://[::1]:1",
    "rediss://user:pw@host:1/0?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_password=x",
    "unix:///run/redis.sock",
    "unix://user:pw@/run/redis.sock?db=2",
]


@pytest.mark.parametrize("url", GOOD)
def test_good_ones(url: str) -> None:
    assert problem(url) is None


BAD = {
    "http://:hunter2@h": "must start with",
    "redis:hunter2": "must start with",
    "REDIS://:hunter2@h": "must start with",
    "redis://:hunter2/x@h": "is no address",
    "redis://u:hunter2[x@h": "is no address",
    "redis://:12#hunter2@h": "write %23",
    "redis://:12?hunter2@h": "write %3F",
    "redis://h:99999": "is no address",
    "redis://:hunter2@h/zero": "number of a database",
    "unix://": "names no socket",
    "redis://h?ssl_ca_certs=/ca": "needs rediss://",
    "unix:///s?ssl_ca_certs=/ca": "needs rediss://",
    "rediss://h?ssl_cert_reqs=none": "always checked",
    "rediss://h?ssl_check_hostname=false": "always checked",
    "rediss://h?ssl_exclude_verify_flags=VERIFY_X509_STRICT": "always checked",
    "rediss://h?ssl_min_version=768": "always checked",
    "redis://h?socket_timeout=60": "may set only db",
    "redis://h?retry_on_timeout=yes": "may set only db",
    "redis://h?protocol=3": "may set only db",
    "redis://h?password=hunter2": "may set only db",
    "redis://h?host=evil": "may set only db",
    "rediss://h?hunter2": "may set only db, ssl_ca_certs",
}


@pytest.mark.parametrize("url", BAD)
def test_bad_ones_name_the_cure_and_are_not_quoted(url: str) -> None:
    assert BAD[url] in str(problem(url))
    with pytest.raises(BadConfig) as refused:
        load(None, {"cache.url": url, "allow_insecure": True})
    assert str(refused.value).startswith("cache.url (command line): ")
    assert BAD[url] in str(refused.value)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("url", BAD)
def test_nor_quoted_where_settings_are_made_without_a_file(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(cache={"url": url})
    assert "hunter2" not in f"{refused.value}{refused.value!r}"


def refusal(**cache: Any) -> str:
    with pytest.raises(BadConfig) as refused:
        load(None, {f"cache.{name}": value for name, value in cache.items()})
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    return str(refused.value)


def allowed(url: str, **settings: Any) -> bool:
    return load(None, {"cache.url": url, **settings}).cache.url is not None


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://:hunter2@cache.example", "cache.example:6379"),
        ("redis://:hunter2@10.0.0.1:7/0", "10.0.0.1:7"),
        ("redis://u:hunter2@localhost.evil.example:7", "localhost.evil.example:7"),
        ("redis://localhost:hunter2@evil.example", "evil.example:6379"),
        ("redis://[fe80::1]:7", "[fe80::1]:7"),
    ],
)
def test_plain_text_to_another_host_is_refused(url: str, where: str) -> None:
    told = refusal(url=url, secret=SECRET)
    assert f"cache.url would talk plain text to {where}" in told
    assert "write rediss://" in told
    assert place(url) == where
    assert allowed(url, allow_insecure=True)


@pytest.mark.parametrize("secret", [None, SECRET[:-1]])
def test_a_cache_on_another_host_needs_a_secret(secret: str | None) -> None:
    given = {"secret": secret} if secret else {}
    told = refusal(url="rediss://u:hunter2@cache.example", **given)
    assert "cache.secret must be set" in told
    assert "openssl rand -hex 32" in told
    assert allowed("rediss://u:hunter2@cache.example", **{"cache.secret": SECRET})
    assert allowed("rediss://u:hunter2@cache.example", allow_insecure=True)


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://localhost", "redis://127.0.0.1:1/2", "redis://[::1]:3", "unix:///s", "redis://localhos%74"],
)
def test_on_this_machine_neither_is_needed(url: str) -> None:
    assert allowed(url)
