"""Computed values with unusual entries, and processes that end after a computation."""

from __future__ import annotations

import asyncio
import os

import pytest

from caches import cache_at
from lockstock import _core


def test_a_key_that_is_too_long_to_be_shared_is_computed(redis_url: str) -> None:
    cache = cache_at(redis_url, "long", COMPAT="django-redis")
    key = "k" * 70_000
    assert cache.get_or_set(key, lambda: 1, 60) == 1
    assert cache.get_or_set(key, lambda: 2, 60) == 1


def test_an_integer_with_a_stale_time_is_read_by_all(redis_url: str) -> None:
    cache = cache_at(redis_url, "integers", STALE=60)
    for number in (0, 7, -(2**63), 10**40):
        key = f"n{number}"
        assert cache.get_or_set(key, lambda number=number: number, 60) == number
        assert cache.get(key) == number
        assert cache.get_many([key]) == {key: number}
        assert asyncio.run(cache.aget(key)) == number
        assert cache.get_or_set(key, int, 60) == number


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_that_ends_after_its_computation_leaves_no_lock(
    redis_url: str, fails: bool
) -> None:
    cache = cache_at(redis_url, f"ends-{fails}")

    def compute() -> int:
        return 1 // (not fails)

    for number in range(20):
        pid = os.fork()
        if not pid:
            # Without exit handlers, as a worker that is replaced.
            try:
                cache.get_or_set(f"k{number}", compute, 60)
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)
    assert _core.Store(redis_url).execute("KEYS", f"*lockstock-cache:ends-{fails}*") == []
