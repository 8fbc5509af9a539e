"""Where django-redis differs from Django's own backends: Django's way, or the other by `COMPAT`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from caches import cache_at
from peers import peers


@pytest.fixture
def compatible(redis_url: str) -> Iterator[Any]:
    cache = cache_at(redis_url, COMPAT="django-redis")
    yield cache
    cache.clear()


def test_set_many(cache: Any, compatible: Any) -> None:
    assert cache.set_many({"a": 1}) == []
    assert compatible.set_many({"a": 1}) is None


def test_set_many_that_fails() -> None:
    cache = cache_at("redis://127.0.0.1:1/0", IGNORE_EXCEPTIONS=True)
    assert sorted(cache.set_many({"a": 1, "b": 2})) == ["a", "b"]


def test_delete_many_without_keys(cache: Any, compatible: Any) -> None:
    assert cache.delete_many([]) is None
    assert cache.delete_many(key for key in ()) is None
    assert compatible.delete_many([]) == 0


def test_incr_version_of_none(cache: Any, compatible: Any) -> None:
    cache.set("none", None)
    with pytest.raises(ValueError, match="not found"):
        compatible.incr_version("none")
    assert cache.incr_version("none") == 2
    assert cache.get("none", "missing", version=2) is None
    assert cache.decr_version("none", version=2) == 1


@pytest.mark.parametrize("key", ["with space", "\x7f", "k" * 251])
def test_keys_that_are_invalid_for_memcached(cache: Any, compatible: Any, key: str) -> None:
    from django.core.cache import CacheKeyWarning

    with pytest.warns(CacheKeyWarning):
        cache.set(key, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compatible.get(key) == 1


@pytest.mark.parametrize("key", ["k" * 230, "상품", "a:b{c}*?[]\\"])
def test_keys_that_are_valid_for_memcached(cache: Any, key: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.set(key, 1)


def test_a_backend_with_a_validation_of_its_own(redis_url: str) -> None:
    peers(redis_url)
    from lockstock.django.cache import RedisCache

    class Strict(RedisCache):
        def validate_key(self, key: str) -> None:
            if "secret" in key:
                raise ValueError(key)

    cache = Strict(redis_url, {})
    assert cache.get("public") is None
    with pytest.raises(ValueError, match="secret"):
        cache.get("secret")


def test_an_increment_of_what_is_no_integer(cache: Any) -> None:
    for value in (None, "text"):
        cache.set("key", value)
        with pytest.raises(TypeError):
            cache.incr("key")
    cache.set("key", 1.5)
    assert cache.incr("key") == 2.5
    with pytest.raises(ValueError, match="not found"):
        cache.incr("missing")
