"""Copies in the memory of the process: when they are used, and that they are never old."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import servers
from caches import cache_at, eventually
from programs import finished
from test_fork import in_child
from test_outages import started_again

_NEAR = {"max_bytes": 1024 * 1024}


def near_at(url: str, prefix: str, **options: Any) -> Any:
    return cache_at(url, prefix, NEAR_CACHE=_NEAR, **options)


def reads(cache: Any) -> int:
    """Returns how many values Redis has read."""
    stats = cache.client._store(0).execute("INFO", "commandstats")
    for line in stats.splitlines():
        if line.startswith("cmdstat_get:calls="):
            return int(line.split("=")[1].split(",")[0])
    return 0


def copied(cache: Any, key: str) -> Any:
    """Reads a value until Redis is not asked for it, and returns it."""
    value: Any = None

    def is_copied() -> bool:
        nonlocal value
        before = reads(cache)
        value = cache.get(key)
        return reads(cache) == before

    eventually(is_copied, "a read of a copy")
    return value


def test_a_copy_is_read_without_redis(redis_url: str) -> None:
    cache = near_at(redis_url, "near-copy")
    cache.set_many({"a": {"stock": 1}, "b": 2})
    assert copied(cache, "a") == {"stock": 1}
    assert copied(cache, "b") == 2
    assert copied(cache, "missing") is None
    before = reads(cache)
    assert cache.get_many(["a", "b", "missing"]) == {"a": {"stock": 1}, "b": 2}
    assert cache.get("missing", "default") == "default"
    assert reads(cache) == before


def test_a_caller_that_changes_a_value_changes_no_copy(redis_url: str) -> None:
    cache = near_at(redis_url, "near-mutable")
    cache.set("list", [1])
    copied(cache, "list").append(2)
    assert copied(cache, "list") == [1]


def test_all_threads_share_the_copies(redis_url: str) -> None:
    cache = near_at(redis_url, "near-threads")
    cache.set("a", 1)
    copied(cache, "a")
    found = []

    def read() -> None:
        other = near_at(redis_url, "near-threads")
        before = reads(cache)
        found.append((other.get("a"), reads(cache) - before))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found == [(1, 0)]


_WRITES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "set": (lambda cache: cache.set("n", 8), 8),
    "set of a value that is no integer": (lambda cache: cache.set("n", "8"), "8"),
    "set that deletes": (lambda cache: cache.set("n", 8, timeout=0), None),
    "set by xx": (lambda cache: cache.set("n", 8, xx=True), 8),
    "set of a True": (lambda cache: cache.set("n", True), True),
    "set_many": (lambda cache: cache.set_many({"n": 8}), 8),
    "delete": (lambda cache: cache.delete("n"), None),
    "delete_many": (lambda cache: cache.delete_many(["n"]), None),
    "delete_pattern": (lambda cache: cache.delete_pattern("*"), None),
    "clear": (lambda cache: cache.clear(), None),
    "incr": (lambda cache: cache.incr("n"), 8),
    "incr without a check": (lambda cache: cache.incr("n", ignore_key_check=True), 8),
    "decr": (lambda cache: cache.decr("n"), 6),
    "incr_version": (lambda cache: cache.incr_version("n"), None),
    "touch that ends it": (lambda cache: cache.touch("n", timeout=0), None),
    "expire": (lambda cache: cache.expire("n", 0), None),
    "pexpire": (lambda cache: cache.pexpire("n", 0), None),
    "expire_at": (lambda cache: cache.expire_at("n", 1), None),
    "aset": (lambda cache: asyncio.run(cache.aset("n", 8)), 8),
    "aset_many": (lambda cache: asyncio.run(cache.aset_many({"n": 8})), 8),
    "adelete": (lambda cache: asyncio.run(cache.adelete("n")), None),
    "aincr": (lambda cache: asyncio.run(cache.aincr("n")), 8),
    "aclear": (lambda cache: asyncio.run(cache.aclear()), None),
    "adelete_pattern": (lambda cache: asyncio.run(cache.adelete_pattern("*")), None),
    "sunionstore": (lambda cache: cache.sunionstore("n", "no", "sets"), None),
}


@pytest.mark.parametrize("name", _WRITES)
def test_an_own_write_is_read_at_once(redis_url: str, name: str) -> None:
    write, after = _WRITES[name]
    # A database of its own: `clear` empties it.
    cache = near_at(redis_url.rpartition("/")[0] + "/9", "near-writes")
    for _ in range(20):
        cache.set("n", 7)
        assert copied(cache, "n") == 7
        write(cache)
        assert cache.get("n") == after


def test_a_value_after_a_copy_of_its_absence(redis_url: str) -> None:
    cache = near_at(redis_url, "near-absent")
    for write in (
        lambda: cache.add("a", 1),
        lambda: cache.set("a", 1, nx=True),
        lambda: cache.incr("a", ignore_key_check=True),
    ):
        cache.delete("a")
        assert copied(cache, "a") is None
        write()
        assert cache.get("a") == 1
    cache.delete("a")
    assert copied(cache, "a") is None
    cache.hset("a", "field", 1)
    # A hash, which is no value of `get`.
    with pytest.raises(Exception, match="WRONGTYPE"):
        cache.get("a")


def test_a_write_of_another_process_becomes_visible(redis_url: str) -> None:
    cache = near_at(redis_url, "near-processes")
    cache.set("a", "old")
    copied(cache, "a")
    assert in_child(lambda: cache.set("a", "of a child")) == 0
    eventually(lambda: cache.get("a") == "of a child", "the value of the child")
    copied(cache, "a")
    finished("write", redis_url, "near-processes", "a", "of a program")
    eventually(lambda: cache.get("a") == "of a program", "the value of the program")


def test_a_write_of_django_redis_becomes_visible(redis_url: str) -> None:
    from django_redis.cache import RedisCache

    cache = near_at(redis_url, "near-peer")
    peer = RedisCache(redis_url, {"KEY_PREFIX": "near-peer", "OPTIONS": {}})
    cache.set("a", "old")
    copied(cache, "a")
    peer.set("a", "new")
    eventually(lambda: cache.get("a") == "new", "the value of django-redis")
    copied(cache, "a")
    peer.delete("a")
    eventually(lambda: cache.get("a") is None, "the removal by django-redis")


def test_a_child_has_copies_of_its_own(redis_url: str) -> None:
    cache = near_at(redis_url, "near-fork")
    cache.set("a", 1)
    copied(cache, "a")

    def use() -> None:
        assert cache.get("a") == 1
        assert copied(cache, "a") == 1
        cache.set("a", 2)
        assert copied(cache, "a") == 2

    assert in_child(use) == 0
    eventually(lambda: cache.get("a") == 2, "the value of the child")


def test_no_copy_outlives_redis_for_long() -> None:
    with servers.redis() as redis:
        cache = near_at(redis.url, "near-outage")
        ignoring = near_at(redis.url, "near-outage", IGNORE_EXCEPTIONS=True)

        def fails() -> bool:
            try:
                cache.get("a")
            except ConnectionError:
                return True
            return False

        cache.set("a", 1)
        assert copied(cache, "a") == 1
        redis.process.kill()
        redis.process.wait()
        eventually(fails, "a failure instead of a copy")
        assert ignoring.get("a", "default") == "default"
        with started_again(redis):
            # Empty: the copy must not return.
            eventually(lambda: not fails(), "an answer of the new server")
            assert cache.get("a") is None
            cache.set("a", 2)
            assert copied(cache, "a") == 2


def test_a_copy_ends_after_its_ttl(redis_url: str) -> None:
    cache = cache_at(redis_url, "near-ttl", NEAR_CACHE={"max_bytes": 1024 * 1024, "ttl": 0.01})
    cache.set("a", 1)

    def is_read_again() -> bool:
        before = reads(cache)
        assert cache.get("a") == 1
        return reads(cache) > before

    for _ in range(3):
        eventually(is_read_again, "a read of Redis")


def test_aget_reads_copies(redis_url: str) -> None:
    cache = near_at(redis_url, "near-async")
    cache.set("a", [1])
    copied(cache, "a")

    async def read() -> Any:
        before = reads(cache)
        value = await cache.aget("a")
        assert reads(cache) == before
        await cache.aset("a", [2])
        return value, await cache.aget("a")

    assert asyncio.run(read()) == ([1], [2])


@pytest.mark.parametrize(
    "settings",
    [
        True,
        {},
        {"max_bytes": "64MB"},
        {"max_bytes": 0},
        {"max_bytes": True},
        {"max_bytes": 1, "ttl": 0},
        {"max_bytes": 1, "ttl": "1"},
        {"max_bytes": 1, "max_age": 1},
    ],
)
def test_malformed_settings_are_refused(redis_url: str, settings: Any) -> None:
    cache = cache_at(redis_url, "near-malformed", NEAR_CACHE=settings)
    with pytest.raises(ImproperlyConfigured, match="NEAR_CACHE"):
        cache.get("a")
    from lockstock.django import checks

    config = {"BACKEND": "lockstock.django.cache.RedisCache", "LOCATION": redis_url}
    with override_settings(CACHES={"default": {**config, "OPTIONS": {"NEAR_CACHE": settings}}}):
        assert [each.id for each in checks.check_settings()] == ["lockstock.E004"]


def test_a_client_of_several_servers_has_no_copies(redis_url: str) -> None:
    client = "lockstock.django.client.ShardClient"
    cache = near_at([redis_url, redis_url], "near-shards", CLIENT_CLASS=client)
    with pytest.raises(ImproperlyConfigured, match="NEAR_CACHE needs"):
        cache.set("a", 1)
