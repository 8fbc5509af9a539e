"""Entries that django-redis has written are read by this package, and the reverse."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import servers
from peers import peers

SERIALIZERS = ["pickle.PickleSerializer", "json.JSONSerializer", "msgpack.MSGPackSerializer"]
COMPRESSORS = [
    "identity.IdentityCompressor",
    "zlib.ZlibCompressor",
    "gzip.GzipCompressor",
    "lzma.LzmaCompressor",
    "lz4.Lz4Compressor",
    "zstd.ZStdCompressor",
]


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str):
    pass


PLAIN: list[Any] = [
    0,
    1,
    -1,
    2**63 - 1,
    -(2**63),
    0.0,
    -0.5,
    1e300,
    True,
    False,
    None,
    "",
    "a",
    "12",
    "-7",
    " 3",
    "1_000",
    "상품",
    "x" * 15,
    "x" * 16,
    "x" * 100,
    "x" * 101,
    "\x04\x22\x4d\x18",
    "lorem ipsum " * 10_000,
    [],
    [1, 2.5, None, True, "a"],
    {"name": "상품", "tags": ["a", "b"], "stock": 3},
]
# What only pickle reads back as it was. JSON and MessagePack do not have it, or change it.
PICKLED: list[Any] = [
    2**64,
    -(2**70),
    math.inf,
    b"",
    b"12",
    b"bytes \x00\xff",
    (1, 2),
    {1, 2},
    {1: "int key"},
    Size.LARGE,
    Level.HIGH,
    Word("a subclass"),
    datetime.datetime(2026, 11, 26, 12, 30),
    decimal.Decimal("1.10"),
    uuid.UUID(int=7),
]
# What Django's JSON encoder writes as text.
AS_JSON: list[Any] = [
    2**64,
    (1, 2),
    Level.HIGH,
    datetime.datetime(2026, 11, 26, 12, 30),
    decimal.Decimal("1.10"),
    uuid.UUID(int=7),
]
VALUES = {
    "pickle.PickleSerializer": PLAIN + PICKLED,
    "json.JSONSerializer": PLAIN + AS_JSON,
    "msgpack.MSGPackSerializer": [*PLAIN, b"bytes \x00\xff", (1, 2), Level.HIGH],
}


@pytest.fixture(autouse=True)
def _empty(redis: servers.Redis) -> Iterator[None]:
    yield
    for database in (0, 1):
        peers(redis.url_of(database)).theirs.clear()


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_values(redis_url: str, serializer: str, compressor: str) -> None:
    options = {"SERIALIZER": f"{{}}.serializers.{serializer}"}
    caches = peers(redis_url, {**options, "COMPRESSOR": f"{{}}.compressors.{compressor}"})
    for number, value in enumerate(VALUES[serializer]):
        for writer, reader in (caches, reversed(caches)):
            writer.set(f"key{number}", value, timeout=60)
            expected, found = writer.get(f"key{number}"), reader.get(f"key{number}")
            assert (type(found), found) == (type(expected), expected), value


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_the_bytes_are_the_same(redis_url: str, serializer: str) -> None:
    caches = peers(redis_url, {"SERIALIZER": f"{{}}.serializers.{serializer}"})
    store = caches.theirs.client.get_client()
    for value in VALUES[serializer]:
        if isinstance(value, set):
            continue  # has no order
        raw = []
        for cache in caches:
            cache.set("key", value)
            raw.append(store.get("shop:1:key"))
        assert raw[0] == raw[1], value


@pytest.mark.parametrize(
    "key",
    ["a", "a:b:c", "with space", "{braces}", "상품", "*[?]\\", "k" * 300, "\n", 7, None],
)
@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_keys(redis_url: str, key: Any) -> None:
    caches = peers(redis_url)
    for writer, reader in (caches, reversed(caches)):
        writer.set(key, "value")
        writer.set(key, "second", version=2)
        assert reader.get(key) == "value"
        assert reader.get(key, version=2) == "second"
        assert reader.get_many([key]) == {key: "value"}
        assert reader.delete(key)
        assert writer.get(key) is None
        reader.delete(key, version=2)


def reversed_key(key: str, prefix: str, version: int) -> str:
    return f"{version}/{prefix}/{str(key)[::-1]}"


@pytest.mark.parametrize(
    "params",
    [
        {"KEY_PREFIX": ""},
        {"KEY_PREFIX": "a:b"},
        {"KEY_PREFIX": "pre*fix"},
        {"VERSION": 3},
        {"KEY_FUNCTION": reversed_key},
        {"KEY_FUNCTION": "test_entries_both_ways.reversed_key"},
    ],
)
def test_settings_of_keys(redis_url: str, params: dict[str, Any]) -> None:
    caches = peers(redis_url, **params)
    for writer, reader in (caches, reversed(caches)):
        writer.set("key", "value")
        assert reader.get("key") == "value"
        assert reader.delete("key")


def test_many_values(redis_url: str) -> None:
    caches = peers(redis_url)
    values = {f"key{number}": number for number in range(200)} | {"text": "a", "none": None}
    for writer, reader in (caches, reversed(caches)):
        writer.set_many(values, timeout=60)
        assert reader.get_many([*values, "missing"]) == values
        assert sorted(reader.keys("key1*")) == sorted(writer.keys("key1*"))
        assert set(reader.iter_keys("*")) == set(values)
        assert reader.delete_pattern("key1*") == 111
        assert reader.delete_many(["text", "none", "missing"]) == 2
        assert len(writer.keys("*")) == 89
        writer.clear()


def test_numbers_and_expiry(redis_url: str) -> None:
    caches = peers(redis_url)
    for writer, reader in (caches, reversed(caches)):
        writer.set("counter", 5, timeout=100)
        assert reader.incr("counter") == 6
        assert writer.incr("counter", 10) == 16
        assert reader.decr("counter", 20) == -4
        assert 90 < reader.ttl("counter") <= 100
        assert reader.touch("counter", 50)
        assert 40 < writer.ttl("counter") <= 50
        assert reader.persist("counter")
        assert writer.ttl("counter") is None
        assert reader.incr_version("counter") == 2
        assert writer.get("counter", version=2) == -4
        # Beyond 64 bits, an integer is not Redis' any more.
        writer.set("large", 2**63 - 1)
        assert reader.incr("large") == 2**63
        assert writer.get("large") == 2**63
        assert not reader.add("large", 1)
        writer.clear()


def test_hashes_sets_and_sorted_sets(redis_url: str) -> None:
    caches = peers(redis_url)
    for writer, reader in (caches, reversed(caches)):
        writer.hset("hash", "field", {"a": 1})
        writer.hset("hash", "number", 3)
        assert reader.hkeys("hash") == writer.hkeys("hash")
        assert reader.hlen("hash") == 2
        assert reader.hexists("hash", "field")
        writer.sadd("set", 1, "two", 3.5, None)
        assert reader.smembers("set") == {1, "two", 3.5, None}
        assert reader.sismember("set", "two")
        assert reader.srem("set", 1) == 1
        writer.zadd("ranks", {"a": 1.5, 7: 2})
        assert reader.zrange("ranks", 0, -1, withscores=True) == [("a", 1.5), (7, 2.0)]
        assert reader.zscore("ranks", 7) == 2.0
        assert reader.zincrby("ranks", 1, "a") == 2.5
        writer.clear()


@pytest.mark.parametrize("compressor", ["identity.IdentityCompressor", "zlib.ZlibCompressor"])
@pytest.mark.parametrize("protocol", range(6))
def test_entries_of_the_herd_client(redis_url: str, protocol: int, compressor: str) -> None:
    options = {"CLIENT_CLASS": "{}.client.HerdClient", "PICKLE_VERSION": protocol}
    caches = peers(redis_url, {**options, "COMPRESSOR": f"{{}}.compressors.{compressor}"})
    values = {"text": "django_redis.client.herd", "dict": {"a": 1}, "large": ["x"] * 100_000}
    for writer, reader in (caches, reversed(caches)):
        for key, value in values.items():
            writer.set(key, value, timeout=60)
            assert reader.get(key) == value
        assert reader.get_many(values) == values
        writer.clear()
    store = caches.theirs.client.get_client()
    if compressor.startswith("identity"):
        caches.ours.set("key", "value", timeout=60)
        assert b"lockstock" not in store.get("shop:1:key")


def test_entries_of_the_herd_client_without_django_redis(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = peers(redis_url, {"CLIENT_CLASS": "{}.client.HerdClient"})
    caches.theirs.set("key", "value", timeout=60)
    for name in [name for name in sys.modules if name.split(".")[0] == "django_redis"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert caches.ours.get("key") == "value"
    caches.ours.set("key", "second", timeout=60)
    assert caches.ours.get("key") == "second"


def test_a_sharded_entry_is_on_the_same_server(redis: servers.Redis) -> None:
    urls = [redis.url_of(0), redis.url_of(1)]
    caches = peers(urls, {"CLIENT_CLASS": "{}.client.ShardClient"})
    keys = [f"key{number}" for number in range(50)] + ["{tag}a", "{tag}b"]
    for writer, reader in (caches, reversed(caches)):
        for key in keys:
            writer.set(key, key)
        assert reader.get_many(keys) == {key: key for key in keys}
        assert [reader.get(key) for key in keys] == keys
        writer.clear()


def test_a_session_is_read_by_the_other(redis_url: str) -> None:
    from django.contrib.sessions.backends.cache import SessionStore
    from django.test import override_settings

    def session_of(package: str, key: str | None = None) -> Any:
        cache = {"BACKEND": f"{package}.cache.RedisCache", "LOCATION": redis_url}
        with override_settings(CACHES={"default": cache}):
            return SessionStore(key)

    peers(redis_url)
    packages = ["lockstock.django", "django_redis"]
    for writer, reader in (packages, reversed(packages)):
        session = session_of(writer)
        session["cart"] = [1, 2]
        session.save()
        assert session_of(reader, session.session_key)["cart"] == [1, 2]
