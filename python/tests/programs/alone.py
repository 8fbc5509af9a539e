"""Locks that are free, in a process that needs no second thread for them."""

from __future__ import annotations

import os
import sys
import threading

from caches import cache_at


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


cache = cache_at(sys.argv[1], "alone", SOCKET_TIMEOUT=30)
before = tasks()
for _ in range(100):
    with cache.lock("free", timeout=60) as lock:
        assert lock.fence > 0 and not lock.lost
        assert not cache.lock("free", timeout=60).acquire(blocking=False)
assert tasks() == before, "no thread was started"

# A wait for a lock has one, and a descriptor for each thread that has waited.
held = cache.lock("held", timeout=60)


def wait() -> None:
    for _ in range(20):
        with cache.lock("held", timeout=60):
            pass


def contend() -> None:
    threads = [threading.Thread(target=wait) for _ in range(4)]
    held.acquire()
    for thread in threads:
        thread.start()
    held.release()
    for thread in threads:
        thread.join()


contend()
opened = descriptors()
for _ in range(5):
    contend()
assert descriptors() <= opened + 4, "no descriptor is left by a wait"
