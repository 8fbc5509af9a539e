"""A small project that uses the package with types. Checked, not executed."""

from __future__ import annotations

import lockstock
from lockstock.errors import LockError, LockNotOwnedError, Unavailable


def sell(store: lockstock.Store, product: int) -> int | None:
    """Sells one piece under a lock, and returns the fence of the write."""
    lock = store.lock(f"product-{product}", timeout=3, blocking_timeout=1)
    try:
        with lock:
            number: int = lock.fence
            lock.extend(2.5)
            return number
    except LockNotOwnedError:
        raise
    except (LockError, Unavailable):
        return None


async def rate(cache: lockstock.Cache[float], currency: str) -> float:
    """Returns a rate, from the cache if it is there."""
    found = await cache.aget(currency)
    if found is None:
        found = 1.09
        await cache.aset(currency, found, ttl=60)
    return float(found)


async def transfer(store: lockstock.Store, source: str, target: str) -> int:
    """Moves money between two accounts that are locked together."""
    async with store.lock_all([source, target], timeout=3) as locks:
        return locks.fence_of(source)


def main() -> None:
    store = lockstock.Store("redis://127.0.0.1:6379/1", timeout=0.5)
    cache = store.cache("rates", lockstock.JSON, version=2, ttl=300)
    cache.set_many({"EUR": 1.09, "KRW": 0.0007})
    total: int = cache.incr("reads")
    print(total, cache.get_many(["EUR", "KRW"]), sell(store, 42))
    with store.semaphore("reports", 3, timeout=60), store.read_lock("config", timeout=5):
        pass
