"""Holders that die, or that write after their lock was lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import warnings
from typing import Any

import lockstock
from caches import cache_at


def test_the_fence_rejects_the_write_of_an_earlier_holder(redis_url: str) -> None:
    cache = cache_at(redis_url, "fenced")
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE product (stock INTEGER, fence INTEGER)")
    database.execute("INSERT INTO product VALUES (10, 0)")

    def write(lock: Any, stock: int) -> int:
        statement = "UPDATE product SET stock = ?, fence = ? WHERE fence < ?"
        return database.execute(statement, (stock, lock.fence, lock.fence)).rowcount

    early, late = cache.lock("product", timeout=0.2), cache.lock("product", timeout=60)
    assert early.acquire()
    # The lease of the first ends while it is paused.
    assert late.acquire(blocking_timeout=60)
    assert early.lost
    assert write(late, 9) == 1
    assert write(early, 8) == 0
    assert database.execute("SELECT stock FROM product").fetchone() == (9,)


def test_a_lock_without_a_timeout_ends_after_its_process_was_killed(redis_url: str) -> None:
    cache = cache_at(redis_url, "killed")
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        warnings.simplefilter("ignore")
        lock = cache.lock("l")
        os.write(write, b"held" if lock.acquire() else b"busy")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(read, 4) == b"held"
        lock = cache.lock("l", timeout=30)
        assert lock.acquire(blocking=False) is False
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    # Nothing renews it any more, and Redis removes it.
    assert 0 < lockstock.Store(redis_url).execute("PTTL", "killed:1:l") <= 30_000
