"""Caches for the tests, without a Django project around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings

from lockstock import _core

__all__ = ["cache_at", "eventually", "waiters"]

# The default, 1 s, is too short on a busy machine.
_OPTIONS = {"SOCKET_TIMEOUT": 10}
# For what happens in the background. Far above what it takes.
_TIMEOUT = 60.0


def cache_at(url: str, prefix: str = "test", **options: Any) -> Any:
    """Returns a new cache backend."""
    if not settings.configured:
        settings.configure(CACHES={}, USE_TZ=False)
    from lockstock.django.cache import RedisCache

    return RedisCache(url, {"KEY_PREFIX": prefix, "OPTIONS": {**_OPTIONS, **options}})


def waiters(store: _core.Store, name: str) -> int:
    """Returns how many requests wait in Redis for a lock."""
    count: int = store.execute("ZCARD", f"lockstock:{{{name}}}:queue")
    return count


def eventually(condition: Callable[[], bool], description: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            message = f"not within {_TIMEOUT} s: {description}"
            raise AssertionError(message)
        time.sleep(0.01)
