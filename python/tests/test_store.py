"""`lockstock.Store`: its locks, and its caches."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import lockstock
import servers
from caches import eventually
from lockstock.errors import (
    Invalid,
    LockError,
    LockNotOwnedError,
    Malformed,
    TimedOut,
    Unavailable,
)


@pytest.fixture
def store(redis: servers.Redis) -> Iterator[lockstock.Store]:
    """A store whose database is empty."""
    store = lockstock.Store(redis.url_of(9))
    store.execute("FLUSHDB")
    yield store
    store.close_idle()


# --- locks ------------------------------------------------------------------------


def test_a_lock_excludes_and_is_handed_over(store: lockstock.Store) -> None:
    order: list[str] = []
    held = threading.Event()

    def wait() -> None:
        held.wait()
        with store.lock("l", timeout=30):
            order.append("waiter")

    thread = threading.Thread(target=wait)
    thread.start()
    with store.lock("l", timeout=30) as first:
        held.set()
        assert not store.lock("l", timeout=30).acquire(blocking=False)
        assert first.owned()
        order.append("holder")
    thread.join()
    assert order == ["holder", "waiter"]
    assert not first.locked()


def test_a_semaphore_has_as_many_holders_as_permits(store: lockstock.Store) -> None:
    permits = [store.semaphore("s", 2, timeout=30) for _ in range(3)]
    assert permits[0].acquire()
    assert permits[1].acquire()
    assert not permits[2].acquire(blocking=False)
    assert permits[0].owned()
    assert permits[2].locked()
    permits[0].release()
    assert permits[2].acquire(blocking=False)
    assert not permits[0].owned()
    for permit in permits[1:]:
        permit.release()
    assert not permits[0].locked()


def test_readers_share_and_a_writer_excludes(store: lockstock.Store) -> None:
    with store.read_lock("rw", timeout=30), store.read_lock("rw", timeout=30):
        assert not store.write_lock("rw", timeout=30).acquire(blocking=False)
    with store.write_lock("rw", timeout=30) as writer:
        assert writer.owned()
        assert not store.read_lock("rw", timeout=30).acquire(blocking=False)


def test_all_locks_or_none(store: lockstock.Store) -> None:
    with store.lock_all(["b", b"a"], timeout=30) as locks:
        assert locks.owned()
        assert locks.fence == max(locks.fence_of("a"), locks.fence_of("b"))
        with pytest.raises(KeyError):
            locks.fence_of("c")
        assert not store.lock("a", timeout=30).acquire(blocking=False)
        locks.extend(30)
        assert 55 < locks.remaining() <= 60
    with store.lock("b", timeout=30):
        assert not store.lock_all(["a", "b", "c"], timeout=30).acquire(blocking=False)
        assert not store.lock("a").locked()
        assert not store.lock("c").locked()
    assert not store.lock_all(["a", "b"]).locked()


def test_locks_for_await(store: lockstock.Store) -> None:
    async def use() -> None:
        async with store.semaphore("s", 1, timeout=30) as permit:
            assert await permit.aowned()
        async with store.lock_all(["x", "y"], timeout=30) as locks:
            assert await locks.aowned()
            assert not await store.lock("x", timeout=30).aacquire(blocking=False)
            await locks.akeep()
        assert await store.lock("y").alocked()

    asyncio.run(use())


def test_a_lost_lock(store: lockstock.Store) -> None:
    lock = store.lock("lost", timeout=30)
    assert lock.acquire()
    store.execute("DEL", "lost")
    with pytest.raises(LockNotOwnedError):
        lock.reacquire()
    assert lock.lost
    with pytest.raises(LockError):
        lock.release()


# --- values -----------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_a_cache(store: lockstock.Store, is_async: bool) -> None:
    cache = store.cache("rates", lockstock.JSON, ttl=300)

    def call(name: str, *args: object, **kwargs: object) -> object:
        if not is_async:
            return getattr(cache, name)(*args, **kwargs)

        async def run() -> object:
            return await getattr(cache, f"a{name}")(*args, **kwargs)

        return asyncio.run(run())

    assert call("get", "EUR") is None
    assert call("set", "EUR", {"rate": 1.09, "name": "유로"}) is None
    assert call("get", "EUR") == {"rate": 1.09, "name": "유로"}
    assert call("add", "EUR", 2) is False
    assert call("add", "KRW", 2, ttl=None) is True
    ttl = call("ttl", "EUR")
    assert isinstance(ttl, float)
    assert 290 < ttl <= 300
    assert call("ttl", "KRW") == math.inf
    assert call("ttl", "none") is None
    assert call("touch", "EUR", None) is True
    assert call("ttl", "EUR") == math.inf
    assert call("touch", "EUR", None) is True
    assert call("touch", "EUR") is True
    assert call("touch", "none") is False
    assert call("touch", "none", None) is False
    assert call("set_many", {"a": 1, "b": [None, True]}, 60) is None
    assert call("get_many", ["a", "b", "none"]) == {"a": 1, "b": [None, True]}
    assert call("get_many", []) == {}
    assert call("incr", "a", 4) == 5
    assert 50 < call("ttl", "a") <= 60  # type: ignore[operator]
    assert call("incr", "new", ttl=60) == 1
    assert 50 < call("ttl", "new") <= 60  # type: ignore[operator]
    assert call("incr", "new", -3, ttl=None) == -2
    assert call("ttl", "new") != math.inf
    with pytest.raises(Malformed):
        call("incr", "EUR")
    assert call("delete", "a") is True
    assert call("delete", "a") is False
    assert call("delete_many", ["b", "new", "none"]) == 2
    with pytest.raises(Invalid):
        call("set", "a", 1, ttl=0)


def test_codecs_versions_and_namespaces(store: lockstock.Store) -> None:
    raw = store.cache("raw", lockstock.BYTES)
    raw.set("k", b"\x00\xff")
    assert raw.get("k") == b"\x00\xff"
    pickled = store.cache("pickled", lockstock.PICKLE)
    pickled.set("k", {1, 2})
    assert pickled.get("k") == {1, 2}
    assert store.cache("raw", lockstock.JSON, version=2).get("k") is None
    with pytest.raises(Malformed):
        store.cache("raw", lockstock.JSON).get("k")
    # The layout of the Rust crate: the separator of a namespace is escaped.
    store.cache("a:b", lockstock.JSON).set("c", [1, "ü"])
    assert store.execute("GET", "lockstock:cache:a%3Ab:1:c") == '[1,"ü"]'.encode()


def test_a_codec_of_ones_own(store: lockstock.Store) -> None:
    class Upper(lockstock.Codec[str]):
        def encode(self, value: str) -> bytes:
            return value.upper().encode()

        def decode(self, value: bytes) -> str:
            return value.decode()

    cache = store.cache("upper", Upper())
    cache.set("k", "v")
    assert cache.get("k") == "V"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_computed_value(store: lockstock.Store, is_async: bool) -> None:
    cache = store.cache("computed", lockstock.JSON, ttl=300)
    calls = []

    def compute() -> list[int]:
        calls.append(1)
        return [len(calls)]

    async def acompute() -> list[int]:
        return compute()

    def call(key: str, **settings: float) -> object:
        if is_async:
            return asyncio.run(cache.aget_or_set(key, acompute, **settings))
        return cache.get_or_set(key, compute, **settings)

    assert call("k") == call("k") == [1]
    assert cache.get("k") == [1]
    ttl = cache.ttl("k")
    assert ttl is not None
    assert 200 < ttl <= 300
    assert store.execute("GET", "lockstock:cache:computed:1:k") == b"[1]"
    assert call("stale", ttl=0.05, stale_for=600) == [2]
    eventually(lambda: cache.get("stale") is None, "it is stale")
    assert cache.get_many(["k", "stale"]) == {"k": [1]}
    assert call("stale", ttl=60, stale_for=600) == [3]
    assert cache.get_many(["k", "stale"]) == {"k": [1], "stale": [3]}
    # The inner value is there first.
    assert cache.get_or_set("own", lambda: cache.get_or_set("own", lambda: 1) + 1) == 1
    with pytest.raises(Invalid):
        call("k2", ttl=0)
    with servers.closed_port() as port:
        cache = lockstock.Store(f"redis://127.0.0.1:{port}").cache("c", lockstock.JSON)
        assert call("k") == [4]


def test_a_computed_value_in_a_loop(store: lockstock.Store) -> None:
    cache = store.cache("loop", lockstock.JSON, ttl=300)

    async def use() -> None:
        has_begun, may_end = asyncio.Event(), asyncio.Event()

        async def compute() -> str:
            # Of its own computation, in a task.
            assert await asyncio.create_task(cache.aget_or_set("k", lambda: "inner")) == "inner"
            has_begun.set()
            await may_end.wait()
            return "outer"

        task = asyncio.create_task(cache.aget_or_set("k", compute))
        await has_begun.wait()
        store.execute("DEL", "lockstock:cache:loop:1:k")
        # Does not wait for a task of the loop that it blocks.
        assert cache.get_or_set("k", lambda: "synchronous") == "synchronous"
        may_end.set()
        assert await task == "synchronous"

    asyncio.run(use())


def test_threads_share_a_computation(store: lockstock.Store) -> None:
    cache = store.cache("threads", lockstock.JSON, ttl=300)
    has_begun, may_end, calls = threading.Event(), threading.Event(), []

    def compute() -> int:
        calls.append(1)
        has_begun.set()
        may_end.wait()
        return 5

    with ThreadPoolExecutor(4) as pool:
        values = [pool.submit(cache.get_or_set, "k", compute) for _ in range(4)]
        has_begun.wait()
        may_end.set()
        assert [value.result() for value in values] == [5] * 4
    assert len(calls) == 1


# --- errors -------------------------------------------------------------------------


def test_errors() -> None:
    with pytest.raises(Invalid):
        lockstock.Store("http://127.0.0.1")
    with servers.closed_port() as port:
        store = lockstock.Store(f"redis://127.0.0.1:{port}")
        for call in (
            lambda: store.execute("PING"),
            lambda: store.lock("l", timeout=3).acquire(),
            lambda: store.cache("c", lockstock.JSON).get("k"),
            lambda: asyncio.run(store.aexecute("PING")),
        ):
            with pytest.raises(Unavailable):
                call()


def test_a_server_that_does_not_reply_costs_the_timeout() -> None:
    with servers.redis() as redis:
        store = lockstock.Store(redis.url, timeout=0.2)
        assert store.execute("PING") == "PONG"
        store.execute("CLIENT", "PAUSE", 60_000, "ALL")
        with pytest.raises(TimedOut):
            store.execute("GET", "k")


# --- import -----------------------------------------------------------------------


def test_import_starts_no_thread_and_imports_little() -> None:
    program = """
import os, sys
import lockstock
assert len(os.listdir("/proc/self/task")) == 1
lockstock.Store("redis://127.0.0.1:1").lock("l")
assert len(os.listdir("/proc/self/task")) == 1
heavy = {"asyncio", "django", "json", "pickle", "redis", "re", "socket", "ssl", "typing"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "Cache" in dir(lockstock)
assert lockstock.Cache and lockstock.JSON
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", bootstrap() + program], check=True)


def bootstrap() -> str:
    """Returns code that finds the package without `site`, which imports much by itself."""
    paths = [path for path in sys.path if path]
    return f"import sys; sys.path[:] = {paths!r}\n"
