"""Asynchronous calls: any loop, several loops, cancellation, and the same results as without."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import servers
from caches import cache_at, eventually, waiters
from lockstock import _core
from lockstock.errors import LockError
from loops import LOOPS, run

_IS_LONG = bool(os.environ.get("LOCKSTOCK_SOAK"))


# --- the same results ---------------------------------------------------------------

# Method and arguments, in order. With 1000.25 s, TTL reports 1000 for the next 0.75 s.
_CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("set", ("a", {"x": [1, "ü"]}, 1000.25), {}),
    ("get", ("a",), {}),
    ("get", ("none", 7), {}),
    ("ttl", ("a",), {}),
    ("add", ("a", 1), {}),
    ("add", ("b", 5, 1000.25), {}),
    ("incr", ("b",), {}),
    ("incr", ("b", 10), {}),
    ("decr", ("b", 3), {}),
    ("ttl", ("b",), {}),
    ("incr", ("none",), {}),
    ("incr", ("none",), {"ignore_key_check": True}),
    ("set", ("big", 2**62, 1000.25), {}),
    ("incr", ("big", 2**62), {}),
    ("get", ("big",), {}),
    ("ttl", ("big",), {}),
    ("incr", ("a",), {}),
    ("incr_version", ("b",), {}),
    ("get", ("b",), {"version": 2}),
    ("ttl", ("b",), {"version": 2}),
    ("decr_version", ("b",), {"version": 2}),
    ("incr_version", ("none2",), {}),
    ("set", ("c", "v"), {"nx": True}),
    ("set", ("c", "w"), {"nx": True}),
    ("set", ("c", "x"), {"xx": True}),
    ("set", ("c", "y", 0), {}),
    ("has_key", ("c",), {}),
    ("has_key", ("a",), {}),
    ("set_many", ({"m1": 1, "m2": "two"}, 1000.25), {}),
    ("set_many", ({},), {}),
    ("get_many", (["m1", "m2", "m3"],), {}),
    ("get_many", ([],), {}),
    ("touch", ("m1", 2000.25), {}),
    ("touch", ("m1", None), {}),
    ("touch", ("none3",), {}),
    ("ttl", ("m1",), {}),
    ("ttl", ("none3",), {}),
    ("expire", ("m1", 3000), {}),
    ("expire", ("m1", timedelta(seconds=1000, milliseconds=250)), {}),
    ("pexpire", ("m1", 1000250), {}),
    ("ttl", ("m1",), {}),
    ("expire_at", ("m1", datetime(2100, 1, 1)), {}),
    ("pexpire_at", ("m1", datetime(2100, 1, 1)), {}),
    ("persist", ("m1",), {}),
    ("pttl", ("m1",), {}),
    ("get_or_set", ("g", lambda: 3, 1000.25), {}),
    ("get_or_set", ("g", 4), {}),
    ("hset", ("h", "f", {"v": 1}), {}),
    ("hset", ("h",), {"mapping": {"g": 2, "n": 5}}),
    ("hget", ("h", "f"), {}),
    ("hmget", ("h", ["f", "x"]), {}),
    ("hgetall", ("h",), {}),
    ("hincrby", ("h", "n", 2), {}),
    ("hdel", ("h", "g"), {}),
    ("hlen", ("h",), {}),
    ("hkeys", ("h",), {}),
    ("hexists", ("h", "f"), {}),
    ("hset", ("h",), {}),
    ("sadd", ("{s}1", 1, 2, "x"), {}),
    ("sadd", ("{s}2", 2, "y"), {}),
    ("scard", ("{s}1",), {}),
    ("sdiff", ("{s}1", "{s}2"), {}),
    ("sinter", ("{s}1", "{s}2"), {}),
    ("sunion", ("{s}1", "{s}2"), {}),
    ("sdiffstore", ("{s}3", "{s}1", "{s}2"), {}),
    ("sinterstore", ("{s}3", "{s}1", "{s}2"), {}),
    ("sunionstore", ("{s}3", "{s}1", "{s}2"), {}),
    ("smismember", ("{s}1", 1, 9), {}),
    ("sismember", ("{s}1", 1), {}),
    ("smembers", ("{s}3",), {}),
    ("smove", ("{s}1", "{s}2", 1), {}),
    ("smove", ("{s}1", "{s}2", 99), {}),
    ("srem", ("{s}1", 2), {}),
    ("srandmember", ("{s}1",), {}),
    ("srandmember", ("{s}1", 3), {}),
    ("sscan", ("{s}1",), {}),
    ("spop", ("{s}1",), {}),
    ("spop", ("{s}1", 2), {}),
    ("zadd", ("z", {"a": 1, "b": 2.5, "c": 3}), {}),
    ("zadd", ("z", {}), {}),
    ("zcard", ("z",), {}),
    ("zcount", ("z", 1, 2.5), {}),
    ("zincrby", ("z", 2, "a"), {}),
    ("zrange", ("z", 0, -1), {"withscores": True}),
    ("zrevrange", ("z", 0, -1), {}),
    ("zrangebyscore", ("z", "-inf", "inf"), {}),
    ("zrevrangebyscore", ("z", "inf", "-inf"), {"withscores": True}),
    ("zrank", ("z", "b"), {}),
    ("zscore", ("z", "b"), {}),
    ("zrem", ("z", "b"), {}),
    ("zremrangebyscore", ("z", 2.9, 3), {}),
    ("zpopmax", ("z",), {}),
    ("zpopmin", ("z", 1), {}),
    ("keys", ("m*",), {}),
    ("delete", ("m1",), {}),
    ("delete", ("m1",), {}),
    ("delete_many", (["m2", "a", "none"],), {}),
    ("delete_many", ([],), {}),
    ("set_many", ({"p1": 1, "p2": 2, "q": 3},), {}),
    ("delete_pattern", ("p*",), {}),
    ("keys", ("[pq]*",), {}),
    ("clear", (), {}),
    ("get", ("q",), {}),
]


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as failure:
        return type(failure)


async def _aoutcome(call: Any) -> Any:
    try:
        return await call
    except Exception as failure:
        return type(failure)


@pytest.mark.parametrize("client", ["DefaultClient", "HerdClient", "ShardClient"])
def test_asynchronous_methods_return_what_synchronous_ones_do(
    redis: servers.Redis, client: str
) -> None:
    options = {"CLIENT_CLASS": f"lockstock.django.client.{client}", "CLEAR": "prefix"}
    url = f"{redis.url_of(1)},{redis.url_of(2)}" if client == "ShardClient" else redis.url_of(1)
    caches = [cache_at(url, prefix, **options) for prefix in ("sync", "async")]

    async def both() -> None:
        for number, (method, args, kwargs) in enumerate(_CALLS):
            wanted = _outcome(lambda m=method, a=args, k=kwargs: getattr(caches[0], m)(*a, **k))  # type: ignore[misc]
            got = await _aoutcome(getattr(caches[1], f"a{method}")(*args, **kwargs))
            if method in ("keys", "hkeys"):
                wanted, got = sorted(wanted), sorted(got)
            call = f"call {number}: {method}{args} {kwargs}"
            assert got == wanted, call
            assert type(got) is type(wanted), call

    run(both())


def test_every_method_has_an_asynchronous_form() -> None:
    backend = type(cache_at("redis://127.0.0.1:1"))
    exempt = {
        "get_backend_timeout",
        "make_key",
        "make_and_validate_key",
        "validate_key",
        "get_client",
        "get_master_client",
    }
    names = {name for name in dir(backend) if not name.startswith("_")} - exempt
    methods = {name for name in names if inspect.isfunction(getattr(backend, name))}
    synchronous = {name for name in methods if f"a{name}" in methods}
    asynchronous = {f"a{name}" for name in synchronous}
    assert methods - synchronous - asynchronous == set()
    # None of them is one of Django's, which run the synchronous method in a thread or are not
    # atomic. These are made of others.
    inherited = {"adecr_version"}
    ours = {name for name in asynchronous if getattr(backend, name).__module__.startswith("lock")}
    assert asynchronous - ours == inherited


def test_iterators(redis_url: str) -> None:
    cache = cache_at(redis_url, "iterators")
    cache.set_many({f"k{n}": n for n in range(30)})
    cache.sadd("members", *range(100))

    async def iterate() -> tuple[set[str], set[int]]:
        keys = {key async for key in cache.aiter_keys("k*")}
        return keys, {member async for member in cache.asscan_iter("members")}

    assert run(iterate()) == (set(cache.iter_keys("k*")), set(cache.sscan_iter("members")))


# --- loops ------------------------------------------------------------------------


@pytest.mark.parametrize("new_loop", LOOPS)
def test_one_cache_in_loops_one_after_another(redis_url: str, new_loop: Any) -> None:
    cache = cache_at(redis_url, "loops")

    async def use(number: int) -> None:
        await cache.aset("k", number)
        assert await cache.aget("k") == number
        async with cache.alock("l", timeout=10) as lock:
            assert not await cache.alock("l", timeout=10).aacquire(blocking=False)
            assert await lock.aowned()
        assert not await cache.alock("l").alocked()

    for number in range(3):
        run(use(number), new_loop)


def test_asyncio_run_twice(redis_url: str) -> None:
    cache = cache_at(redis_url, "twice")
    for number in range(2):
        asyncio.run(cache.aset("k", number))
        assert asyncio.run(cache.aget("k")) == number


@pytest.mark.parametrize("new_loop", LOOPS)
def test_several_loops_at_the_same_time(redis_url: str, new_loop: Any) -> None:
    cache, wrong = cache_at(redis_url, "threads"), []
    counter = cache_at(redis_url, "threads")
    counter.set("total", 0)

    async def one(thread: int, task: int) -> None:
        for number in range(20):
            key = f"{thread}.{task}"
            await cache.aset(key, [key, number])
            if await cache.aget(key) != [key, number]:
                wrong.append(key)
            async with cache.alock("lock", timeout=60):
                # Two calls: only the lock makes them one.
                await cache.aset("total", await cache.aget("total") + 1)

    async def many(thread: int) -> None:
        await asyncio.gather(*(one(thread, task) for task in range(5)))

    def work(thread: int) -> None:
        run(many(thread), new_loop)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert counter.get("total") == 4 * 5 * 20


def test_a_closed_loop_leaves_no_descriptor(redis_url: str) -> None:
    cache = cache_at(redis_url, "descriptors")

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(cache.aset("k", 1))
    before = descriptors()
    for _ in range(50):
        asyncio.run(cache.aget("k"))
    assert descriptors() <= before


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_wait_in_a_closed_loop_leaves_the_queue(redis_url: str, new_loop: Any) -> None:
    cache = cache_at(redis_url, "closed")
    # Another client: its waiters wait in Redis, not in a queue of this process.
    holder = cache_at(redis_url, "closed", SOCKET_TIMEOUT=5).lock("l", timeout=60)
    assert holder.acquire()

    async def begin() -> list[Any]:
        waits = [asyncio.ensure_future(cache.alock("l", timeout=60).aacquire()) for _ in range(3)]
        # An outcome that nothing takes: no task continues the call, which could have the lock by
        # the end of the loop.
        free = cache.alock("free", timeout=60).aacquire()
        free.send(None)
        await asyncio.sleep(0)
        return [*waits, free]

    loop = new_loop()
    *tasks, free = loop.run_until_complete(begin())
    eventually(lambda: waiters(holder.store, str(holder.name)) > 0, "a wait has begun")
    eventually(cache.lock("free").locked, "the lock is granted")
    loop.close()
    for task in tasks:
        # As the interpreter does at its end, without a message for each.
        task._log_destroy_pending = False
    del tasks, loop, task, free
    gc.collect()
    eventually(lambda: waiters(holder.store, str(holder.name)) == 0, "no wait is left")
    holder.release()
    for name in ("l", "free"):
        eventually(lambda n=name: not cache.lock(n).locked(), f"{name} is free")  # type: ignore[misc]


# --- cancellation -----------------------------------------------------------------


@pytest.mark.parametrize("new_loop", LOOPS)
def test_cancelled_calls_leak_neither_a_lock_nor_a_waiter(redis_url: str, new_loop: Any) -> None:
    # Two clients: waiters of one wait in a queue of this process, those of the other in Redis.
    cache, other = (
        cache_at(redis_url, "cancelled"),
        cache_at(redis_url, "cancelled", SOCKET_TIMEOUT=5),
    )
    count = 50_000 if _IS_LONG else 1000
    seed = int(os.environ.get("LOCKSTOCK_SEED") or time.time_ns())
    print("LOCKSTOCK_SEED", seed)
    dice = random.Random(seed)
    names = ["l0", "l1", "l2"]
    cache.set_many({f"k{n}": f"v{n}" for n in range(10)})
    # Two holders of one lock at the same time, and replies of other calls.
    inside, faults, acquired = dict.fromkeys(names, 0), [], 0
    kept: list[asyncio.Task[None]] = []

    async def hold() -> None:
        nonlocal acquired
        name = dice.choice(names)
        wait = dice.choice([None, 0, 0.005, 5])
        lock = dice.choice([cache, other]).alock(name, timeout=60, blocking_timeout=wait)
        try:
            async with lock:
                acquired += 1
                inside[name] += 1
                if inside[name] != 1:
                    faults.append(name)
                try:
                    await asyncio.sleep(dice.choice([0, 0, 0.0005]))
                finally:
                    inside[name] -= 1
        except LockError:
            pass

    async def read() -> None:
        number = dice.randrange(10)
        if await cache.aget(f"k{number}") != f"v{number}":
            faults.append(number)
        if await cache.aget_many([f"k{number}", "none"]) != {f"k{number}": f"v{number}"}:
            faults.append(number)

    async def one() -> None:
        task = asyncio.ensure_future(dice.choice([hold, hold, read])())
        # Cancelled tasks stay referenced, as those of `gather` do.
        kept.append(task)
        delay = dice.choice([None, 0, 0.0002, 0.001, 0.003])
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
        if delay is not None:
            await asyncio.sleep(delay)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def all_of_them() -> None:
        running = 0
        finished = asyncio.Event()

        async def worker(share: int) -> None:
            nonlocal running
            for _ in range(share):
                await one()
            running -= 1
            if not running:
                finished.set()

        running = 20
        workers = [asyncio.ensure_future(worker(count // 20)) for _ in range(20)]
        await finished.wait()
        await asyncio.gather(*workers)

    run(all_of_them(), new_loop)
    assert faults == []
    assert acquired
    for name in names:
        lock = cache.lock(name)
        eventually(lambda k=lock: not k.locked(), f"{name} is free")  # type: ignore[misc]
        eventually(lambda k=lock: waiters(k.store, k.name) == 0, "no waiter is left")  # type: ignore[misc]


def test_a_lock_granted_in_the_moment_of_a_cancellation_is_released(redis_url: str) -> None:
    cache = cache_at(redis_url, "moment")

    async def cancel_after_the_reply() -> asyncio.Task[bool]:
        task = asyncio.ensure_future(cache.alock("l", timeout=60).aacquire())
        await asyncio.sleep(0)
        probe = cache.lock("l")
        # Blocks the loop until the lock is granted, so that the cancellation comes after it.
        eventually(probe.locked, "the lock is granted")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return task

    # The task keeps its exception, and with it the frames.
    task = run(cancel_after_the_reply())
    eventually(lambda: not cache.lock("l").locked(), "the lock is released")
    del task


def test_a_cancelled_release_and_keep_are_carried_out(redis_url: str) -> None:
    cache = cache_at(redis_url, "ends")

    async def cancel(end: str) -> None:
        lock = cache.alock(end, timeout=60)
        assert await lock.aacquire()
        task = asyncio.ensure_future(getattr(lock, end)())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    run(cancel("arelease"))
    eventually(lambda: not cache.lock("arelease").locked(), "it is released")
    run(cancel("akeep"))
    store: _core.Store = cache.lock("akeep").store
    key = cache.lock("akeep").name
    eventually(lambda: b":kept:" in store.execute("GET", key), "it is kept")


def test_lock_methods(redis_url: str) -> None:
    cache = cache_at(redis_url, "methods")

    async def use() -> None:
        lock = cache.alock("l", timeout=10)
        assert await lock.aacquire()
        assert await lock.alocked()
        assert await lock.aextend(10)
        assert lock.remaining() > 15
        assert await lock.areacquire()
        assert lock.remaining() <= 10
        await lock.arelease()
        with pytest.raises(LockError):
            await lock.arelease()
        assert await lock.aacquire(blocking=False)
        await lock.akeep()
        # A waiter that cannot have it in time fails at once.
        with pytest.raises(LockError):
            async with cache.alock("l", timeout=10, blocking_timeout=5):
                pass
        cache.delete("l")

    started = time.monotonic()
    run(use())
    assert time.monotonic() - started < 5
