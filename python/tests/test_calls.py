"""Calls of the backend: keys and values of all kinds, and clients that change a part of it."""

from __future__ import annotations

import asyncio
import enum
import warnings
from typing import Any

import pytest
from django.core.cache import CacheKeyWarning
from django.utils.safestring import mark_safe

import servers
from caches import cache_at
from lockstock.django.client import DefaultClient
from lockstock.django.exceptions import ConnectionInterrupted
from lockstock.django.util import CacheKey


def peer_at(url: str, prefix: str) -> Any:
    """Returns a cache of django-redis."""
    from django_redis.cache import RedisCache

    return RedisCache(url, {"KEY_PREFIX": prefix, "OPTIONS": {}})


class Colour(enum.IntEnum):
    RED = 1


class Reversed(DefaultClient):
    """Another form of keys and of values."""

    def make_key(self, key: Any, version: int | None = None, prefix: str | None = None) -> CacheKey:
        return CacheKey(str(key)[::-1])

    def encode(self, value: Any, *, allow_int: bool = True) -> bytes | int:
        return str(value)[::-1].encode()

    def decode(self, value: Any) -> Any:
        return value.decode()[::-1]


class OwnKeys(DefaultClient):
    def make_key(self, key: Any, version: int | None = None, prefix: str | None = None) -> CacheKey:
        return CacheKey(f"own|{key}|{version}")


@pytest.mark.parametrize("version", [None, 2, -1, True, "text", 10**30])
@pytest.mark.parametrize(
    "key",
    ["plain", "상품:42", "é" * 200, 42, mark_safe("safe"), "", "a{b}c", "x" * 240, ("a", 1), 1.5],
)
def test_a_key_is_that_of_django_redis(redis_url: str, key: Any, version: Any) -> None:
    ours, peer = cache_at(redis_url, "calls-keys"), peer_at(redis_url, "calls-keys")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        ours.set(key, "ours", version=version)
        assert peer.get(key, version=version) == "ours"
        peer.set(key, "peer", version=version)
        assert ours.get(key, version=version) == "peer"
        assert ours.get_many([key, "no such key"], version=version) == {key: "peer"}
        assert ours.touch(key, 100, version=version)
        assert 0 < peer.ttl(key, version=version) <= 100
        ours.set_many({key: 1}, version=version)
        assert ours.incr(key, version=version) == 2
        assert peer.get(key, version=version) == 2
        assert not ours.add(key, 3, version=version)
        assert ours.delete(key, version=version)
        assert peer.get(key, version=version) is None


def test_a_made_key_is_not_made_again(redis_url: str) -> None:
    cache = cache_at(redis_url, "calls-made")
    cache.set("a", 1)
    made = cache.client.make_key("a")
    assert cache.client.get(made) == 1
    assert cache.client.get_many([made]) == {made: 1}


@pytest.mark.parametrize("key", ["with blank", "a\tb", "\x7f", "x" * 300, "é" * 260])
def test_a_key_that_memcached_rejects_is_warned_of(redis_url: str, key: str) -> None:
    cache = cache_at(redis_url, "calls-warned")
    for call in (
        lambda: cache.set(key, 1),
        lambda: cache.get(key),
        lambda: cache.get_many([key]),
        lambda: cache.set_many({key: 1}),
        lambda: cache.incr(key),
        lambda: cache.delete(key),
    ):
        with pytest.warns(CacheKeyWarning):
            call()
    silent = cache_at(redis_url, "calls-warned", COMPAT="django-redis")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent.set(key, 1)
        assert silent.get(key) == 1


@pytest.mark.parametrize(
    "raw",
    ["7", "-7", "+7", " 7", "7 ", "\n7\r", "007", "-0", "1_000", "9" * 18, "9" * 19, "-" + "9" * 40]
    + ["", "-", "+", " ", "1.5", "7x", "1__0", "_1", "nan"],
)
def test_what_is_read_as_an_integer_is_that_of_django_redis(redis_url: str, raw: str) -> None:
    ours, peer = cache_at(redis_url, "calls-raw"), peer_at(redis_url, "calls-raw")
    ours.client._store(0).execute("SET", ours.make_key("raw"), raw)
    try:
        expected = peer.get("raw")
    except Exception as failure:
        with pytest.raises(type(failure)):
            ours.get("raw")
        with pytest.raises(type(failure)):
            ours.get_many(["raw"])
    else:
        assert (ours.get("raw"), type(ours.get("raw"))) == (expected, int)
        assert ours.get_many(["raw"]) == {"raw": expected}


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**63 - 1, -(2**63), 2**64, 10**40, True, False, Colour.RED, 1.5, None, "7", b"7", [1]],
)
def test_a_value_has_the_bytes_of_django_redis(redis_url: str, value: Any) -> None:
    ours, peer = cache_at(redis_url, "calls-values"), peer_at(redis_url, "calls-values")
    store = ours.client._store(0)
    peer.set("a", value)
    expected = store.execute("GET", ours.make_key("a"))
    for write in (
        lambda: ours.set("a", value),
        lambda: ours.set_many({"a": value}),
        lambda: ours.add("a", value),
    ):
        ours.delete("a")
        write()
        assert store.execute("GET", ours.make_key("a")) == expected
    assert (ours.get("a"), type(ours.get("a"))) == (peer.get("a"), type(peer.get("a")))


@pytest.mark.parametrize("timeout", [100, 100.5, True, None, 0, -5, -0.5, 0.0001])
def test_a_timeout_is_that_of_django_redis(redis_url: str, timeout: Any) -> None:
    ours, peer = cache_at(redis_url, "calls-timeouts"), peer_at(redis_url, "calls-timeouts")
    for write in (
        lambda cache: cache.set("a", "b", timeout=timeout),
        lambda cache: cache.set_many({"a": "b"}, timeout=timeout),
        lambda cache: cache.touch("a", timeout),
    ):
        ends = []
        for cache in (ours, peer):
            cache.set("a", "before", timeout=1000)
            write(cache)
            ends.append(cache.ttl("a"))
        assert ends[0] == ends[1] or abs(ends[0] - ends[1]) <= 60


def test_a_timeout_that_is_a_string_is_refused(redis_url: str) -> None:
    # As of an environment variable.
    cache = cache_at(redis_url, "calls-strings")
    cache.set("a", "b")
    for write in (
        lambda: cache.set("a", "c", timeout="60"),
        lambda: cache.set_many({"a": "c"}, timeout="60"),
        lambda: cache.touch("a", "60"),
        lambda: asyncio.run(cache.aset("a", "c", timeout="60")),
    ):
        with pytest.raises(TypeError, match="a timeout must be a number of seconds, not '60'"):
            write()
    assert cache.get("a") == "b"


def test_a_value_that_cannot_be_written_changes_nothing(redis_url: str) -> None:
    cache = cache_at(redis_url, "calls-unwritable")
    cache.set_many({"a": 1, "b": 2})
    with pytest.raises(Exception, match="pickle"):
        cache.set("a", lambda: None)
    with pytest.raises(Exception, match="pickle"):
        cache.set_many({"b": 3, "a": lambda: None})
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}


def test_a_client_may_change_keys_and_values(redis_url: str) -> None:
    cache = cache_at(redis_url, "calls-own", CLIENT_CLASS=f"{__name__}.Reversed")
    cache.set("own-client", "value")
    assert cache.client._store(0).execute("GET", "tneilc-nwo") == b"eulav"
    assert cache.get("own-client") == "value"
    assert cache.get_many(["own-client"]) == {"own-client": "value"}
    cache.set_many({"own-client": "other"})
    assert cache.get("own-client") == "other"
    assert cache.delete("own-client")


def test_a_client_may_change_keys_only(redis_url: str) -> None:
    cache = cache_at(redis_url, "calls-keys", CLIENT_CLASS=f"{__name__}.OwnKeys")
    cache.set("a", [1], version=3)
    assert cache.client._store(0).execute("EXISTS", "own|a|3") == 1
    assert cache.get("a", version=3) == [1]
    assert cache.get_many(["a"], version=3) == {"a": [1]}
    assert cache.delete("a", version=3)


def test_a_cache_whose_prefix_changes(redis_url: str) -> None:
    cache = cache_at(redis_url, "calls-before")
    cache.set("a", 1)
    cache.key_prefix, cache.version = "calls-after", 7
    assert cache.get("a") is None
    cache.set("a", 2)
    assert cache_at(redis_url, "calls-after").get("a", version=7) == 2
    assert cache_at(redis_url, "calls-before").get("a") == 1


def test_a_failure_of_a_call_has_its_cause() -> None:
    with servers.closed_port() as port:
        cache = cache_at(f"redis://127.0.0.1:{port}/0", "calls-failures")
        for call in (
            lambda client: client.get("a"),
            lambda client: client.set("a", 1),
            lambda client: client.delete("a"),
            lambda client: client.touch("a"),
            lambda client: client.incr("a"),
            lambda client: client.get_many(["a"]),
            lambda client: client.set_many({"a": 1}),
        ):
            with pytest.raises(ConnectionInterrupted) as raised:
                call(cache.client)
            assert isinstance(raised.value.__cause__, ConnectionError)
