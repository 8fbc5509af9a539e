"""Greenlets that share locks and wait for a Redis that is stopped: `greenlets.py KIND URL PID`.

KIND is `gevent` or `eventlet`; PID is that of the Redis.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys

KIND, URL, PID = sys.argv[1], sys.argv[2], int(sys.argv[3])
if KIND == "gevent":
    from gevent import monkey

    monkey.patch_all()
    from gevent import Timeout, sleep, spawn
else:
    import warnings

    # It warns that it is deprecated.
    warnings.simplefilter("ignore")
    import eventlet

    eventlet.monkey_patch()
    from eventlet import Timeout, sleep, spawn

import os
import signal

from caches import cache_at, waiters

cache = cache_at(URL, "greenlets", SOCKET_TIMEOUT=30)
ticks = 0


def tick() -> None:
    global ticks
    while True:
        ticks += 1
        sleep(0.005)


def join(greenlet):
    return greenlet.get() if KIND == "gevent" else greenlet.wait()


def test_a_lock_of_another_greenlet() -> None:
    order = []

    def hold(name: str) -> None:
        with cache.lock("l", timeout=60):
            order.append(f"{name} in")
            before = ticks
            sleep(0.2)
            assert ticks > before
            order.append(f"{name} out")

    names = ["a", "b", "c"]
    for greenlet in [spawn(hold, name) for name in names]:
        join(greenlet)
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert sorted(pairs) == [(f"{name} in", f"{name} out") for name in names], order


def test_a_reply_that_does_not_come() -> None:
    cache.set("k", "v")
    calls = {
        "get": lambda: cache.get("k"),
        "get_many": lambda: cache.get_many(["k"]),
        "keys": lambda: cache.keys("k"),
        "set": lambda: cache.set("k", "v"),
        "lock": lambda: cache.lock("paused", timeout=60).acquire(),
    }
    wanted = {"get": "v", "get_many": {"k": "v"}, "keys": ["k"], "set": True, "lock": True}
    os.kill(PID, signal.SIGSTOP)
    try:
        greenlets = {name: spawn(call) for name, call in calls.items()}
        before = ticks
        while ticks < before + 50:
            sleep(0.01)
    finally:
        os.kill(PID, signal.SIGCONT)
    assert {name: join(greenlet) for name, greenlet in greenlets.items()} == wanted


def test_a_timeout_ends_a_wait() -> None:
    holder = cache_at(URL, "greenlets", SOCKET_TIMEOUT=5).lock("timeout", timeout=60)
    with holder:
        try:
            with Timeout(0.2):
                cache.lock("timeout", timeout=60).acquire()
        except Timeout:
            pass
        else:
            raise AssertionError
        while waiters(holder.store, holder.name):
            sleep(0.01)
    assert cache.lock("timeout", timeout=60).acquire(blocking=False)


def test_many_greenlets() -> None:
    cache.set("total", 0)

    def add() -> None:
        with cache.lock("total-lock", timeout=60):
            total = cache.get("total")
            sleep(0)
            cache.set("total", total + 1)

    for greenlet in [spawn(add) for _ in range(100)]:
        join(greenlet)
    assert cache.get("total") == 100


spawn(tick)
test_a_lock_of_another_greenlet()
test_a_reply_that_does_not_come()
test_a_timeout_ends_a_wait()
test_many_greenlets()
print("ok")
