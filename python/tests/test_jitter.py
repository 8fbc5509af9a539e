"""`TTL_JITTER`: values that are written together do not expire together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from caches import cache_at

_WRITES: dict[str, Callable[[Any, str], Any]] = {
    "set": lambda cache, key: cache.set(key, 1, 1000),
    "set_default": lambda cache, key: cache.set(key, 1),
    "set_named": lambda cache, key: cache.set(key, 1, timeout=1000),
    "add": lambda cache, key: cache.add(key, 1, 1000),
    "set_many": lambda cache, key: cache.set_many({key: 1}, 1000),
    "aset": lambda cache, key: asyncio.run(cache.aset(key, 1, 1000)),
    "aadd": lambda cache, key: asyncio.run(cache.aadd(key, 1, timeout=1000)),
    "aset_many": lambda cache, key: asyncio.run(cache.aset_many({key: 1}, 1000)),
    "get_or_set": lambda cache, key: cache.get_or_set(key, lambda: 1, 1000),
    "get_or_set_plain": lambda cache, key: cache.get_or_set(key, 1, 1000),
}


@pytest.mark.parametrize("write", _WRITES)
def test_jitter_shortens_timeouts(redis_url: str, write: str) -> None:
    cache = cache_at(redis_url, f"jitter-{write}", TTL_JITTER=0.5)
    cache.default_timeout = 1000
    for number in range(20):
        _WRITES[write](cache, f"k{number}")
    ttls = [cache.pttl(f"k{number}") / 1000 for number in range(20)]
    # Each is another one: the probability of a false alarm is below 10^-9.
    assert 490 < min(ttls) < 900
    assert max(ttls) <= 1000
    assert len({round(ttl) for ttl in ttls}) > 5


def test_jitter_leaves_what_never_expires_and_what_expires_at_once(redis_url: str) -> None:
    cache = cache_at(redis_url, "jitter-none", TTL_JITTER=0.5)
    cache.set("never", 1, None)
    assert cache.ttl("never") is None
    cache.set("never", 1, 0)
    assert cache.get("never") is None
    # What is moved or added to keeps its timeout.
    cache.client.set("float", 1.5, 1000)
    for _ in range(20):
        cache.incr("float")
    assert cache.ttl("float") > 990


@pytest.mark.parametrize("share", [1, -0.1, "a tenth", True])
def test_a_jitter_out_of_range_is_refused(redis_url: str, share: Any) -> None:
    cache = cache_at(redis_url, TTL_JITTER=share)
    with pytest.raises(ImproperlyConfigured, match="TTL_JITTER"):
        cache.set("k", 1)
