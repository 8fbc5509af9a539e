"""Views of a project of Django with the types of the backend. Checked, not executed."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from lockstock.django.typed import cache, caches


def update(request: HttpRequest, product: int) -> HttpResponse:
    """Accepts one update of a product in three seconds."""
    lock = cache.lock(f"product-update-lock-{product}", timeout=3, blocking_timeout=1)
    if not lock.acquire():
        return HttpResponse(status=429)
    try:
        response = HttpResponse()
    except Exception:
        lock.release()
        raise
    lock.keep()
    return response


async def report(request: HttpRequest) -> HttpResponse:
    """Computes a page once, under a lock."""

    async def render() -> str:
        async with caches["other"].alock("report", timeout=30, blocking_timeout=5) as lock:
            return f"report {lock.fence}"

    page = await cache.aget_or_set("report", render, timeout=60, stale=600)
    return HttpResponse(page)
