"""The connections of event loops: what goes over them, and what happens when one breaks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from asgiref.sync import async_to_sync

import servers
from caches import cache_at, eventually
from lockstock import Store, _core
from lockstock.errors import Malformed, TimedOut, Unavailable
from loops import LOOPS, run

_IS_LONG = bool(os.environ.get("LOCKSTOCK_SOAK"))
# Far above what it takes.
_TIMEOUT = 60.0
_MEBIBYTE = 1024 * 1024


def connections(raw: redis_py.Redis) -> set[str]:
    """Returns the connections whose last command was `GET`, without that of the runtime."""
    clients: Any = raw.client_list()
    return {each["id"] for each in clients if each["cmd"] == "get" and each["sub"] == "0"}


async def connected(call: Callable[[], Awaitable[Any]], raw: redis_py.Redis) -> str:
    """Calls until the loop has a connection of its own, and returns that."""
    before, deadline = connections(raw), time.monotonic() + _TIMEOUT
    while not (new := connections(raw) - before):
        assert time.monotonic() < deadline, "the loop has no connection"
        await call()
    (only,) = new
    return only


def descriptors() -> int:
    """Returns how many descriptors are open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    """Returns the memory of this process."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def blocked(store: Store, raw: redis_py.Redis) -> asyncio.Task[Any]:
    """Begins a command that keeps the connection busy until `RPUSH list`."""
    task = asyncio.ensure_future(store.aexecute("BLPOP", "list", 0))
    deadline = time.monotonic() + _TIMEOUT
    clients: Any = []
    while not any("b" in each["flags"] for each in clients):
        assert time.monotonic() < deadline, "the command is not blocked"
        await asyncio.sleep(0)
        clients = raw.client_list()
    return task


# --- which calls -------------------------------------------------------------------


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_loop_with_many_calls_has_a_connection_and_closes_it(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    cache = cache_at(redis_url, "own")
    cache.set("k", "v")
    cache.client.do_close_clients()

    async def use() -> str:
        own = await connected(lambda: cache.aget("k"), raw)
        assert await cache.aget("k") == "v"
        assert await asyncio.gather(*(cache.aget("k") for _ in range(100))) == ["v"] * 100
        return own

    own = run(use(), new_loop)
    eventually(lambda: own not in connections(raw), "it is closed with its loop")


def test_a_loop_for_one_call_opens_no_connection(redis_url: str, raw: redis_py.Redis) -> None:
    cache = cache_at(redis_url, "short")
    cache.set("k", "v")
    cache.client.do_close_clients()
    opened = raw.info("stats")["total_connections_received"]
    for _ in range(20):
        assert async_to_sync(cache.aget)("k") == "v"
    # That of the runtime.
    assert raw.info("stats")["total_connections_received"] <= opened + 1


@pytest.mark.parametrize("new_loop", LOOPS)
def test_each_call_has_its_reply(redis_url: str, raw: redis_py.Redis, new_loop: Any) -> None:
    cache, store = cache_at(redis_url, "each"), Store(redis_url, timeout=10)
    cache.set("n", 0)

    async def one(number: int) -> None:
        key = f"k{number}"
        await cache.aset(key, {"n": number}, 60)
        assert await cache.aget(key) == {"n": number}
        assert await cache.aget_many([key, "none"]) == {key: {"n": number}}
        await cache.aset_many({key: number, f"{key}b": b"x" * number})
        assert await cache.aget(key) == number
        assert await cache.aincr(key, 2) == number + 2
        assert await cache.atouch(key, 60)
        assert await cache.aadd(key, 1) is False
        assert await cache.adelete(key) == 1
        assert await cache.aget(key, "default") == "default"
        assert await cache.adelete_many([key, f"{key}b"]) == 1
        await cache.aincr("n")
        await store.aexecute("HSET", key, "field", number)
        assert await store.aexecute("HGETALL", key) == {b"field": str(number).encode()}
        with pytest.raises(Malformed):
            await store.aexecute("INCR", key)
        await store.aexecute("DEL", key)

    async def many() -> None:
        await connected(lambda: cache.aget("n"), raw)
        for _ in range(5):
            await asyncio.gather(*(one(number) for number in range(50)))

    run(many(), new_loop)
    assert cache.get("n") == 250


@pytest.mark.parametrize("new_loop", LOOPS)
def test_large_values_and_many_at_once(redis_url: str, raw: redis_py.Redis, new_loop: Any) -> None:
    cache, dice = cache_at(redis_url, "large"), random.Random(1)
    cache.set("k", "v")
    sizes = [dice.choice([0, 1, 1000, 17_000, _MEBIBYTE]) for _ in range(60)]
    values = {f"k{number}": os.urandom(size) for number, size in enumerate([*sizes, 9_000_000])}

    async def use() -> None:
        await connected(lambda: cache.aget("k"), raw)
        # More than the socket takes at once.
        await asyncio.gather(*(cache.aset(key, value) for key, value in values.items()))
        got = await asyncio.gather(*map(cache.aget, values))
        assert got == list(values.values())
        assert await cache.aget_many(values) == values

    run(use(), new_loop)


def test_a_value_of_a_near_cache_is_not_older_than_an_awaited_write(
    redis_url: str, raw: redis_py.Redis
) -> None:
    plain = cache_at(redis_url, "near")
    near = cache_at(redis_url, "near", NEAR_CACHE={"max_bytes": _MEBIBYTE})

    async def use() -> None:
        plain.set("k", 0)
        await connected(lambda: plain.aget("k"), raw)
        for number in range(200):
            await near.aset("k", number)
            assert await near.aget("k") == number
            assert near.get("k") == number

    run(use())


# --- what ends a call ----------------------------------------------------------------


@pytest.mark.parametrize("new_loop", LOOPS)
def test_the_reply_of_a_cancelled_call_is_that_of_no_other(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    cache, store = cache_at(redis_url, "cancelled"), Store(redis_url, timeout=30)
    cache.set_many({f"k{number}": number for number in range(10)})
    raw.set("plain", "p")

    async def use() -> None:
        await connected(lambda: store.aexecute("GET", "plain"), raw)
        first = await blocked(store, raw)
        calls = [asyncio.ensure_future(store.aexecute("ECHO", n)) for n in range(10)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        # Cancelled before it is sent.
        unsent = asyncio.ensure_future(store.aexecute("ECHO", "unsent"))
        await asyncio.sleep(0)
        unsent.cancel()
        await asyncio.wait([unsent, *calls[::2]])
        raw.rpush("list", "item")
        assert await first == [b"list", b"item"]
        got = await asyncio.gather(*calls, return_exceptions=True)
        assert got[1::2] == [b"1", b"3", b"5", b"7", b"9"]
        assert all(isinstance(each, asyncio.CancelledError) for each in got[::2])
        assert await store.aexecute("ECHO", "last") == b"last"

    run(use(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_calls_cancelled_at_random_leave_nothing(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    cache = cache_at(redis_url, "random")
    cache.set_many({f"k{number}": f"v{number}" for number in range(10)})
    seed = int(os.environ.get("LOCKSTOCK_SEED") or time.time_ns())
    print("LOCKSTOCK_SEED", seed)
    dice = random.Random(seed)
    count = 100_000 if _IS_LONG else 2000
    done = [0, 0]

    async def one() -> None:
        number = dice.randrange(10)
        task = asyncio.ensure_future(cache.aget(f"k{number}"))
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        if dice.random() < 0.5:
            task.cancel()
        await asyncio.wait([task])
        done[task.cancelled()] += 1
        if not task.cancelled():
            assert task.result() == f"v{number}"

    async def worker() -> None:
        for _ in range(count // 20):
            await one()

    async def all_of_them() -> int:
        await connected(lambda: cache.aget("k0"), raw)
        before = descriptors()
        await asyncio.gather(*(worker() for _ in range(20)))
        assert await cache.aget("k1") == "v1"
        return descriptors() - before

    assert run(all_of_them(), new_loop) <= 0
    assert min(done) > count // 10
    assert not [each for each in gc.get_objects() if type(each) is _core.Pending]


@pytest.mark.parametrize("new_loop", LOOPS)
def test_after_a_broken_connection_what_may_be_repeated_is(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    store = Store(redis_url, timeout=30)
    raw.set("plain", "p")
    raw.set("n", 0)

    async def use() -> None:
        own = await connected(lambda: store.aexecute("GET", "plain"), raw)
        pop = await blocked(store, raw)
        reads = [asyncio.ensure_future(store.aexecute("GET", "plain")) for _ in range(5)]
        incr = asyncio.ensure_future(store.aexecute("INCR", "n"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raw.client_kill_filter(_id=own)
        for lost in (pop, incr):
            with pytest.raises(Unavailable):
                await lost
        assert await asyncio.gather(*reads) == [b"p"] * 5
        assert await store.aexecute("INCR", "n") == 1
        # And the loop gets another.
        await connected(lambda: store.aexecute("GET", "plain"), raw)
        assert await store.aexecute("GET", "plain") == b"p"

    run(use(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_server_that_stands_still_costs_the_time_limit_once(new_loop: Any) -> None:
    with servers.redis() as redis, redis_py.Redis.from_url(redis.url) as raw:
        store = Store(redis.url, timeout=0.5)
        raw.set("k", "v")

        async def fails() -> bool:
            try:
                return await store.aexecute("GET", "k") != b"v"
            except Unavailable:
                return True

        async def use() -> None:
            await connected(lambda: store.aexecute("GET", "k"), raw)
            redis.process.send_signal(signal.SIGSTOP)
            calls = [store.aexecute("ECHO", number) for number in range(20)]
            began = time.monotonic()
            got = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, TimedOut) for each in got), got
            # Not one limit after another.
            for _ in range(100):
                with pytest.raises(Unavailable):
                    await store.aexecute("GET", "k")
            assert time.monotonic() - began < 20
            redis.process.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + _TIMEOUT
            while await fails():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            for number in range(100):
                assert await store.aexecute("ECHO", number) == str(number).encode()

        run(use(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_reply_that_came_while_the_loop_was_busy_is_not_late(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    store = Store(redis_url, timeout=1)
    raw.set("k", "v")

    async def use() -> None:
        await connected(lambda: store.aexecute("GET", "k"), raw)
        call = asyncio.ensure_future(store.aexecute("GET", "k"))
        await asyncio.sleep(0)
        # Longer than the time limit, as a handler that computes.
        time.sleep(1.5)
        assert await call == b"v"

    run(use(), new_loop)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_task_that_ends_the_loop_takes_no_reply_from_others(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    store = Store(redis_url, timeout=30)
    raw.set("plain", "p")
    loop = new_loop()

    async def read(number: int) -> bytes:
        reply: bytes = await store.aexecute("ECHO", number)
        if number == 1:
            # As a signal handler that runs in the task.
            raise KeyboardInterrupt
        return reply

    tasks: list[asyncio.Task[bytes]] = []

    async def use() -> None:
        await connected(lambda: store.aexecute("GET", "plain"), raw)
        tasks.extend(asyncio.ensure_future(read(number)) for number in range(5))
        await asyncio.wait_for(asyncio.wait(tasks), _TIMEOUT)

    used = loop.create_task(use())
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(used)
        loop.run_until_complete(used)
    finally:
        loop.close()
    assert isinstance(tasks[1].exception(), KeyboardInterrupt)
    assert [task.result() for task in [tasks[0], *tasks[2:]]] == [b"0", b"2", b"3", b"4"]


# --- the end of a loop, and children ---------------------------------------------------


@pytest.mark.parametrize("new_loop", LOOPS)
def test_closed_loops_leave_no_descriptor(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    store = Store(redis_url, timeout=30)
    raw.set("plain", "p")

    opened = set()

    async def use(is_last_pending: bool) -> None:
        opened.add(await connected(lambda: store.aexecute("GET", "plain"), raw))
        if is_last_pending:
            call = store.aexecute("BLPOP", "never", 0)
            call.send(None)
            call.close()

    run(use(False), new_loop)
    before = descriptors()
    for number in range(300 if _IS_LONG else 20):
        run(use(bool(number % 2)), new_loop)
    assert descriptors() <= before
    clients: Any = raw.client_list
    eventually(
        lambda: opened.isdisjoint(each["id"] for each in clients()), "they are closed at the server"
    )


@pytest.mark.parametrize("new_loop", LOOPS)
def test_loops_that_end_while_they_connect_leave_no_descriptor(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    store = Store(redis_url, timeout=30)
    raw.set("plain", "p")

    async def use(count: int) -> None:
        for _ in range(count):
            assert await store.aexecute("GET", "plain") == b"p"

    run(use(1), new_loop)
    before = descriptors()
    for number in range(1000 if _IS_LONG else 50):
        run(use(8 + number % 4), new_loop)
    eventually(lambda: descriptors() <= before, "all descriptors are closed")


@pytest.mark.parametrize("new_loop", LOOPS)
def test_many_calls_and_loops_leave_no_memory(
    redis_url: str, raw: redis_py.Redis, new_loop: Any
) -> None:
    cache = cache_at(redis_url, "memory")
    cache.set("k", {"v": 1})
    calls, loops = (1_000_000, 10_000) if _IS_LONG else (10_000, 100)

    async def use(count: int) -> None:
        for _ in range(count // 50):
            await asyncio.gather(*(cache.aget("k") for _ in range(50)))

    def all_of_them(calls: int, loops: int) -> None:
        run(use(calls), new_loop)
        for _ in range(loops):
            run(use(50), new_loop)

    # What is allocated once, and what the allocator keeps.
    all_of_them(calls // 10, loops // 10)
    before, files = resident_bytes(), descriptors()
    all_of_them(calls, loops)
    after = resident_bytes()
    print(f"{calls} calls, {loops} loops: {before} bytes before, {after} after")
    assert after - before < 8 * _MEBIBYTE
    eventually(lambda: descriptors() <= files, "all descriptors are closed")


def test_a_child_leaves_the_connection_of_its_parent_alone(
    redis_url: str, raw: redis_py.Redis
) -> None:
    cache, store = cache_at(redis_url, "fork"), Store(redis_url, timeout=30)
    cache.set("k", "v")
    raw.set("plain", "p")

    async def calls() -> None:
        for _ in range(50):
            assert await store.aexecute("GET", "plain") == b"p"
            assert await asyncio.gather(*(store.aexecute("ECHO", n) for n in range(3))) == [
                b"0",
                b"1",
                b"2",
            ]

    async def use() -> None:
        await connected(lambda: store.aexecute("GET", "plain"), raw)
        first = await blocked(store, raw)
        second = asyncio.ensure_future(store.aexecute("ECHO", "parent"))
        await asyncio.sleep(0)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                asyncio.run(calls())
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        raw.rpush("list", "item")
        assert await first == [b"list", b"item"]
        assert await second == b"parent"
        await calls()

    run(use())
