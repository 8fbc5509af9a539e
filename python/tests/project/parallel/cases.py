"""What the tests of each process do: they share a Redis, and a lock of the parent."""

from __future__ import annotations

import asyncio
import os

from django.core.cache import cache
from django.test import SimpleTestCase

# In the parent, when it loads the tests: connections, a runtime and a lock that is held.
_HELD = cache.lock("held", timeout=60)
if cache.add("parent", os.getpid()):
    assert _HELD.acquire()


class SharedCacheCase(SimpleTestCase):
    """Ten additions under a lock."""

    def test_additions(self) -> None:
        for _ in range(10):
            with cache.lock("total-lock", timeout=30):
                cache.set("total", cache.get("total", 0) + 1)
        cache.get_or_set(f"process-{os.getpid()}", True)

    def test_asynchronous_additions(self) -> None:
        async def add() -> None:
            for _ in range(10):
                async with cache.alock("total-lock", timeout=30):
                    await cache.aset("total", await cache.aget("total", 0) + 1)

        asyncio.run(add())

    def test_the_lock_of_the_parent_is_held(self) -> None:
        self.assertTrue(cache.lock("held").locked())
        self.assertNotEqual(cache.get("parent"), os.getpid())
