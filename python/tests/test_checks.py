"""System checks: what `manage.py check` prints for wrong settings, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import servers
from lockstock.django import checks
from programs import TESTS, environment

_REMOTE = "redis://redis.example.com/0"
_SAFE = {"SERIALIZER": "lockstock.django.serializers.json.JSONSerializer"}


def printed(settings: dict[str, Any], *arguments: str, url: str = "redis://127.0.0.1:1/0") -> str:
    done = subprocess.run(
        [sys.executable, str(TESTS / "programs" / "check_settings.py"), json.dumps(settings)]
        + list(arguments),
        env=environment(LOCKSTOCK_URL=url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"LOCATION": "rediss://redis.example.com:6380/1"},
        {"LOCATION": _REMOTE, "OPTIONS": _SAFE},
        {"LOCATION": ["unix:///run/redis.sock?db=1", "redis://[::1]:6379/2"]},
        # Settings of django-redis' documentation, with another backend only.
        {
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.DefaultClient",
                "SERIALIZER": "django_redis.serializers.pickle.PickleSerializer",
                "COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor",
                "CONNECTION_POOL_KWARGS": {"max_connections": 100, "retry_on_timeout": True},
                "PARSER_CLASS": "redis.connection.HiredisParser",
            }
        },
        {"LOCATION": "redis://service/0", "OPTIONS": {"SENTINELS": [["127.0.0.1", 1]]}},
    ],
    ids=["minimal", "tls", "json", "list", "django-redis", "sentinels"],
)
def test_right_settings(settings: dict[str, Any]) -> None:
    assert "no issues" in printed(settings, "--deploy")


_WRONG = {
    "location-without-scheme": (
        {"LOCATION": "127.0.0.1:6379"},
        "lockstock.E001",
        ["LOCATION cannot be used", "redis://"],
    ),
    "location-with-a-wrong-port": (
        {"LOCATION": "redis://127.0.0.1:port/0"},
        "lockstock.E001",
        ["LOCATION cannot be used"],
    ),
    "a-password-that-is-not-quoted": (
        {"LOCATION": "redis://:p@ss/word@redis.example.com/0"},
        "lockstock.E001",
        ["urllib.parse.quote", "PASSWORD"],
    ),
    "no-location": ({"LOCATION": ""}, "lockstock.E001", ["LOCATION cannot be used"]),
    "no-certificate-check": (
        {"LOCATION": "rediss://127.0.0.1/0?ssl_cert_reqs=none"},
        "lockstock.E001",
        ["ssl_ca_certs"],
    ),
    "a-negative-timeout": (
        {"OPTIONS": {"SOCKET_TIMEOUT": -1}},
        "lockstock.E001",
        ["Socket timeout must be a number of seconds", "not -1"],
    ),
    "sentinels-that-are-no-list": (
        {"OPTIONS": {"SENTINELS": 26379}},
        "lockstock.E001",
        ["SENTINELS must be a list of (host, port)"],
    ),
    "near-cache-of-several-servers": (
        {
            "LOCATION": ["redis://127.0.0.1:1/0", "redis://127.0.0.1:2/0"],
            "OPTIONS": {"NEAR_CACHE": {"max_bytes": 1000}},
        },
        "lockstock.E004",
        ["one URL in LOCATION"],
    ),
    "near-cache-of-another-client": (
        {
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.HerdClient",
                "NEAR_CACHE": {"max_bytes": 1000},
            }
        },
        "lockstock.E004",
        ["DefaultClient"],
    ),
    "pickles-through-remote-sentinels": (
        {
            "LOCATION": "redis://service/0",
            "OPTIONS": {"SENTINELS": [["127.0.0.1", 1], ["redis.example.com", 1]]},
        },
        "lockstock.W002",
        ["unprotected connection to redis.example.com."],
    ),
    "pickles-through-sentinels-of-a-url": (
        {"LOCATION": "redis+sentinel://127.0.0.1:1,redis.example.com:1/service/0"},
        "lockstock.W002",
        ["unprotected connection to redis.example.com."],
    ),
    "a-pool-class": (
        {"OPTIONS": {"CONNECTION_POOL_CLASS": "project.pools.Pool"}},
        "lockstock.E002",
        ["CONNECTION_POOL_CLASS", "as many connections as calls"],
    ),
    "an-argument-of-a-pool": (
        {"OPTIONS": {"CONNECTION_POOL_KWARGS": {"redis_connect_func": 1}}},
        "lockstock.E002",
        ["CONNECTION_POOL_KWARGS['redis_connect_func']", "remove it"],
    ),
    "a-client-that-does-not-exist": (
        {"OPTIONS": {"CLIENT_CLASS": "django_redis.client.AsyncClient"}},
        "lockstock.E005",
        ["CLIENT_CLASS", "AsyncClient"],
    ),
    "a-class-instead-of-its-path": (
        {"OPTIONS": {"SERIALIZER": {"class": "JSONSerializer"}}},
        "lockstock.E005",
        ["SERIALIZER", "path"],
    ),
    "a-timeout-that-is-no-number": (
        {"OPTIONS": {"SOCKET_TIMEOUT": "5"}},
        "lockstock.E001",
        ["Socket timeout should be float or integer"],
    ),
    "a-timeout-below-zero": (
        {"OPTIONS": {"SOCKET_TIMEOUT": -1}},
        "lockstock.E001",
        ["Socket timeout must be a number of seconds"],
    ),
    "connections-that-are-no-number": (
        {"OPTIONS": {"CONNECTION_POOL_KWARGS": {"max_connections": "all"}}},
        "lockstock.E001",
        ["max_connections must be a number"],
    ),
    "a-location-that-is-no-url": (
        {"LOCATION": 6379},
        "lockstock.E001",
        ["LOCATION must be a URL or a list of URLs"],
    ),
    "an-empty-list-of-serializers": (
        {"OPTIONS": {"SERIALIZER": []}},
        "lockstock.E006",
        ["SERIALIZER", "a list of paths"],
    ),
    "no-compressor": ({"OPTIONS": {"COMPRESSOR": None}}, "lockstock.E006", ["COMPRESSOR"]),
    "a-wait-without-end": ({"OPTIONS": {"COMPUTE_WAIT": 1e300}}, "lockstock.E006", ["a year"]),
    "a-copy-without-end": (
        {"OPTIONS": {"NEAR_CACHE": {"max_bytes": 1000, "ttl": 1e300}}},
        "lockstock.E004",
        ["ttl of NEAR_CACHE"],
    ),
    "sentinels-without-ports": (
        {"LOCATION": "redis://service/0", "OPTIONS": {"SENTINELS": ["sentinel:26379"]}},
        "lockstock.E001",
        ["SENTINELS must be a list of (host, port)"],
    ),
    "a-jitter-that-is-no-part": (
        {"OPTIONS": {"TTL_JITTER": 10}},
        "lockstock.E006",
        ["TTL_JITTER cannot be 10", "0.1 for a tenth"],
    ),
    "a-scope-that-does-not-exist": (
        {"OPTIONS": {"COMPUTE_ONCE": "machine"}},
        "lockstock.E006",
        ["COMPUTE_ONCE cannot be 'machine'", "'process'"],
    ),
    "a-wait-that-is-no-number": (
        {"OPTIONS": {"COMPUTE_WAIT": "30"}},
        "lockstock.E006",
        ["COMPUTE_WAIT cannot be '30'", "a number of seconds"],
    ),
    "a-negative-stale-time": ({"OPTIONS": {"STALE": -1}}, "lockstock.E006", ["STALE", "-1"]),
    "a-way-that-does-not-exist": (
        {"OPTIONS": {"COMPAT": ["django_redis"]}},
        "lockstock.E006",
        ["COMPAT", "'django-redis' or None"],
    ),
    "a-clear-that-does-not-exist": (
        {"OPTIONS": {"CLEAR": "all"}},
        "lockstock.E006",
        ["CLEAR", "'prefix' or None"],
    ),
    "a-list-of-arguments": (
        {"OPTIONS": {"CONNECTION_POOL_KWARGS": ["max_connections"]}},
        "lockstock.E006",
        ["CONNECTION_POOL_KWARGS", "a dict"],
    ),
    "a-pickle-protocol-that-does-not-exist": (
        {"OPTIONS": {"PICKLE_VERSION": 99}},
        "lockstock.E006",
        ["PICKLE_VERSION", "99"],
    ),
    "an-option-that-is-misspelt": (
        {"OPTIONS": {"IGNORE_EXCEPTION": True}},
        "lockstock.W006",
        ["no option has the name IGNORE_EXCEPTION", "Write IGNORE_EXCEPTIONS"],
    ),
    "an-option-of-another-backend": (
        {"OPTIONS": {"pool_class": "redis.BlockingConnectionPool"}},
        "lockstock.W006",
        ["pool_class"],
    ),
    "a-setting-inside-options": (
        {"OPTIONS": {"TIMEOUT": 5}},
        "lockstock.W006",
        ["TIMEOUT", "beside LOCATION"],
    ),
    "prefix-inside-options": (
        {"OPTIONS": {"KEY_PREFIX": "p"}},
        "lockstock.W001",
        ["KEY_PREFIX", "beside LOCATION"],
    ),
    "pickle-without-tls": (
        {"LOCATION": _REMOTE},
        "lockstock.W002",
        ["redis.example.com", "rediss://", "JSONSerializer"],
    ),
    "pickle-by-sentinels-without-tls": (
        {"LOCATION": "redis+sentinel://sentinel.example.com:26379/service/0"},
        "lockstock.W002",
        ["sentinel.example.com"],
    ),
    "one-of-several-serializers": (
        {
            "LOCATION": _REMOTE,
            "OPTIONS": {
                "SERIALIZER": [
                    _SAFE["SERIALIZER"],
                    "django_redis.serializers.pickle.PickleSerializer",
                ]
            },
        },
        "lockstock.W002",
        ["redis.example.com"],
    ),
    "a-class-that-derives-from-the-backend": (
        {"BACKEND": "project.backends.Derived", "OPTIONS": {"KEY_PREFIX": "p"}},
        "lockstock.W001",
        ["KEY_PREFIX"],
    ),
}


@pytest.mark.parametrize(("settings", "number", "words"), _WRONG.values(), ids=_WRONG)
def test_wrong_settings(settings: dict[str, Any], number: str, words: list[str]) -> None:
    text = printed(settings, "--deploy")
    # Each is reported once.
    assert text.count("(lockstock.") == 1, text
    for word in (number, "CACHES['default']", *words):
        assert word in text, text


def test_pickles_without_protection_are_reported_for_a_deployment_only() -> None:
    assert "no issues" in printed({"LOCATION": _REMOTE})
    assert "lockstock.W002" in printed({"LOCATION": _REMOTE}, "--deploy")


def test_a_package_that_is_missing() -> None:
    settings = {"OPTIONS": {"SERIALIZER": "lockstock.django.serializers.msgpack.MSGPackSerializer"}}
    assert "no issues" in printed(settings)
    text = printed(settings, "--without-msgpack")
    assert "lockstock.E003" in text
    assert "pip install 'lockstock[msgpack]'" in text
    assert "lockstock.E005" not in text


def test_spans_without_their_package() -> None:
    settings = {"OPTIONS": {"OPENTELEMETRY": True}}
    assert "no issues" in printed(settings)
    text = printed(settings, "--without-opentelemetry")
    assert text.count("(lockstock.") == 1, text
    assert "lockstock.E003" in text
    assert "pip install 'lockstock[otel]'" in text


def test_gevent_without_its_sockets() -> None:
    text = printed({}, "--gevent")
    assert "lockstock.W004" in text
    assert "patch_all()" in text


def test_a_server_that_evicts_locks() -> None:
    with servers.redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as redis:
        text = printed({}, "--deploy", url=redis.url)
        assert "lockstock.W003" in text
        assert "allkeys-lru" in text
        # It does not ask the server without --deploy.
        assert "no issues" in printed({}, url=redis.url)


def test_a_server_that_does_not_evict() -> None:
    with servers.redis("--maxmemory", "100mb", "--maxmemory-policy", "noeviction") as redis:
        assert "no issues" in printed({}, "--deploy", url=redis.url)


# By the report of a server: none of this age is installed.
@pytest.mark.parametrize(
    ("version", "is_old"),
    [("4.0.14", True), ("6.0.16", True), ("6.2.0", False), ("7.0.15", False), ("10.1.0", False)],
)
def test_a_server_that_is_too_old(version: str, is_old: bool) -> None:
    found = checks._check_server("CACHES['default']", {"redis_version": version})
    assert [message.id for message in found] == ["lockstock.W005"] * is_old
    assert all(version in message.msg for message in found)
