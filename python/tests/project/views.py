"""Views that use the cache and a lock. The body is `True` if the cache returned what it should."""

from __future__ import annotations

import asyncio

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

# Those that run in this process now. The lock admits one of all processes.
_inside = 0


def add(request: HttpRequest, number: int) -> HttpResponse:
    """Adds one to a total, under a lock."""
    cache.set(f"k{number}", number, 60)
    with cache.lock("total-lock", timeout=30):
        cache.set("total", cache.get("total", 0) + 1)
    return HttpResponse(str(cache.get(f"k{number}") == number), content_type="text/plain")


async def add_asynchronously(request: HttpRequest, number: int) -> HttpResponse:
    """Adds one to the same total, under the same lock, in the event loop."""
    global _inside
    await cache.aset(f"k{number}", number, 60)
    async with cache.alock("total-lock", timeout=30):
        _inside += 1
        total = await cache.aget("total", 0)
        # Another request runs here, if there is one.
        await asyncio.sleep(0)
        is_alone = _inside == 1
        await cache.aset("total", total + 1)
        _inside -= 1
    found = await cache.aget(f"k{number}")
    return HttpResponse(str(found == number and is_alone), content_type="text/plain")


def calls(request: HttpRequest) -> HttpResponse:
    """Calls the methods that other packages observe, once or twice each."""
    cache.clear()
    cache.set("a", 1)
    cache.set_many({"b": 2, "c": 3})
    values = [cache.get("a"), cache.get("missing"), cache.get_many(["a", "b", "missing"])]
    values += [cache.incr("a"), cache.add("a", 5), cache.delete("c")]
    with cache.lock("observed", timeout=30):
        pass
    return HttpResponse(f"<html><body>{values}</body></html>")
