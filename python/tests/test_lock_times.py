"""Times of a lock that are no leases, and waits of any length."""

from __future__ import annotations

import math

import pytest

import lockstock
from caches import cache_at


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e30, -1e30, 24 * 3600 + 1])
def test_times_that_are_no_leases_are_refused(redis_url: str, seconds: float) -> None:
    cache = cache_at(redis_url, "times")
    with pytest.raises(lockstock.errors.Invalid):
        cache.lock("name", timeout=seconds).acquire()
    with cache.lock("name", timeout=100) as lock:
        for replaces in (False, True):
            with pytest.raises(lockstock.errors.Invalid):
                lock.extend(seconds, replaces)
        assert lock.owned()


def test_a_wait_of_any_length(redis_url: str) -> None:
    cache = cache_at(redis_url, "waits")
    for seconds in (math.inf, 1e30, 24 * 3600 * 10_000):
        with cache.lock("name", timeout=100, blocking_timeout=seconds) as lock:
            assert lock.owned()
