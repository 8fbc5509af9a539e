"""Ends while daemon threads use the cache: `exits.py URL`."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

from caches import cache_at

cache = cache_at(sys.argv[1], "exits")
held = cache.lock("held", timeout=60)
assert held.acquire()


def wait_for_lock() -> None:
    cache.lock("held", timeout=60).acquire()


def take_turns() -> None:
    while True:
        with cache.lock("turns", timeout=60):
            pass


def read() -> None:
    while True:
        cache.get_many(["a", "b", "c"])


async def read_asynchronously() -> None:
    while True:
        await cache.aget("a")


works = [wait_for_lock, take_turns, take_turns, read, read]
threads = [threading.Thread(target=work, daemon=True) for work in works]
threads.append(threading.Thread(target=asyncio.run, args=(read_asynchronously(),), daemon=True))
for thread in threads:
    thread.start()
# Any moment will do: the threads are busy to the end.
time.sleep(0.1)
print("ends")
