"""`get_or_set`: one caller computes a missing value for all callers, in all processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py
from django.core.exceptions import ImproperlyConfigured

import servers
from caches import cache_at, eventually
from lockstock import _core
from peers import peers
from programs import finished, started

# Within this, what should happen at once has happened, on a busy machine too.
PATIENCE = 60.0
CALLERS = 8


@pytest.fixture
def cache(redis_url: str) -> Iterator[Any]:
    cache = cache_at(redis_url, "computing", COMPUTE_WAIT=PATIENCE)
    yield cache
    cache.clear()


def lock_name(cache: Any, key: str) -> str:
    """The lock of the Rust crate for the computation of an entry."""
    return f"lockstock-cache:{cache.make_key(key)}"


def readers_that_wait(cache: Any, key: str) -> int:
    queue = f"lockstock:{{{lock_name(cache, key)}}}:holders-queue"
    count: int = cache.client._store(0).execute("ZCARD", queue)
    return count


class Computation:
    """A function that counts its calls, and returns after `may_end` is set."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.calls = 0
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


# --- one caller for all -------------------------------------------------------------


@pytest.mark.parametrize("scope", ["store", "process"])
def test_one_thread_computes_for_all(redis_url: str, scope: str) -> None:
    cache = cache_at(redis_url, f"threads-{scope}", COMPUTE_ONCE=scope, COMPUTE_WAIT=PATIENCE)
    all_call = threading.Barrier(CALLERS)
    computation = Computation({"a": 1})

    def call() -> Any:
        all_call.wait(PATIENCE)
        return cache.get_or_set("k", computation, 60)

    with ThreadPoolExecutor(CALLERS) as pool:
        values = [pool.submit(call) for _ in range(CALLERS)]
        assert computation.has_begun.wait(PATIENCE)
        computation.may_end.set()
        values = [value.result() for value in values]
    assert values == [{"a": 1}] * CALLERS
    assert computation.calls == 1
    # As after an unpickling: each caller may change its own.
    assert len({id(value) for value in values}) == CALLERS


def test_one_process_computes_for_all(redis_url: str) -> None:
    cache = cache_at(redis_url, "processes")
    cache.clear()
    processes = [started("computing", redis_url, "together", "4") for _ in range(4)]
    outputs = [process.communicate(timeout=PATIENCE) for process in processes]
    assert outputs == [("value\n", "")] * 4
    assert cache.get("computations") == 1


def test_after_its_process_was_killed_another_one_computes(redis_url: str) -> None:
    cache = cache_at(redis_url, "processes", COMPUTE_WAIT=PATIENCE)
    cache.clear()
    process = started("computing", redis_url, "stuck")
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n"
    with ThreadPoolExecutor(1) as pool:
        value = pool.submit(cache.get_or_set, "k", lambda: "waiter", 60)
        eventually(lambda: readers_that_wait(cache, "k") == 1, "this process waits")
        process.kill()
        process.communicate()
        assert value.result(PATIENCE) == "waiter"


def test_the_lock_of_the_rust_crate_is_held_meanwhile(cache: Any) -> None:
    holders: list[str] = []

    def compute() -> int:
        holders.extend(cache.client._store(0).holders("write", lock_name(cache, "k")))
        return 5

    assert cache.get_or_set("k", compute) == 5
    assert len(holders) == 1
    eventually(
        lambda: not cache.client._store(0).holders("write", lock_name(cache, "k")),
        "the lock is released",
    )


def test_a_process_that_computes_in_process_takes_no_lock(redis_url: str) -> None:
    cache = cache_at(redis_url, "scope", COMPUTE_ONCE="process")

    def compute() -> list[str]:
        holders: list[str] = cache.client._store(0).holders("write", lock_name(cache, "k"))
        return holders

    assert cache.get_or_set("k", compute) == []


def test_greenlets_share_a_computation(redis_url: str) -> None:
    for kind in ("gevent", "eventlet"):
        assert finished("computing_greenlets", kind, redis_url) == "ok\n"


# --- failures -----------------------------------------------------------------------


def test_a_computation_that_fails_frees_the_next_caller(cache: Any) -> None:
    outcomes: list[Any] = [ValueError("first"), "second"]
    has_begun, calls = threading.Event(), []

    def compute() -> Any:
        calls.append(threading.get_ident())
        has_begun.set()
        outcome = outcomes[len(calls) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def call() -> Any:
        try:
            return cache.get_or_set("k", compute)
        except ValueError as failure:
            # Its own exception, not one of another thread.
            assert calls[0] == threading.get_ident()
            return str(failure)

    with ThreadPoolExecutor(CALLERS) as pool:
        values = [value.result(PATIENCE) for value in [pool.submit(call) for _ in range(CALLERS)]]
    assert sorted(values) == ["first", *["second"] * (CALLERS - 1)]
    assert len(calls) == 2


def test_a_value_that_cannot_be_encoded_frees_the_next_caller(cache: Any) -> None:
    with pytest.raises(Exception, match="pickle"):
        cache.get_or_set("k", lambda: threading.Lock())
    assert cache.get_or_set("k", lambda: 1) == 1


def test_an_exception_that_is_kept_does_not_keep_the_lock(cache: Any) -> None:
    def exit_() -> None:
        raise SystemExit

    with pytest.raises(SystemExit) as kept:
        cache.get_or_set("k", exit_)
    assert kept.value.__traceback__ is not None
    assert cache.get_or_set("k", lambda: 1) == 1


def test_a_signal_handler_that_raises_ends_a_wait(cache: Any) -> None:
    class Interrupt(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    computation = Computation()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ThreadPoolExecutor(1) as pool:
            value = pool.submit(cache.get_or_set, "k", computation)
            assert computation.has_begun.wait(PATIENCE)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Interrupt):
                cache.get_or_set("k", lambda: pytest.fail("computed twice"))
            computation.may_end.set()
            assert value.result(PATIENCE) == "value"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_caller_that_has_waited_long_enough_computes(redis_url: str) -> None:
    cache = cache_at(redis_url, "impatient", COMPUTE_WAIT=0.2)
    computation = Computation("late")
    with ThreadPoolExecutor(1) as pool:
        value = pool.submit(cache.get_or_set, "k", computation)
        assert computation.has_begun.wait(PATIENCE)
        assert cache.get_or_set("k", lambda: "early") == "early"
        computation.may_end.set()
        value.result(PATIENCE)
    assert cache.get("k") == "early"


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("default", ["value", lambda: "value"])
def test_a_dead_redis_does_not_fail_it(ignores: bool, default: Any) -> None:
    with servers.closed_port() as port:
        cache = cache_at(f"redis://127.0.0.1:{port}", IGNORE_EXCEPTIONS=ignores)
        assert cache.get_or_set("k", default) == "value"
        assert asyncio.run(cache.aget_or_set("k", default)) == "value"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_redis_that_dies_during_a_computation_does_not_fail_it(is_async: bool) -> None:
    with servers.redis() as redis:
        cache = cache_at(redis.url, SOCKET_TIMEOUT=1)

        def compute() -> str:
            redis.process.kill()
            redis.process.wait()
            return "value"

        if is_async:
            assert asyncio.run(cache.aget_or_set("k", compute)) == "value"
        else:
            assert cache.get_or_set("k", compute) == "value"


# --- inside of a computation --------------------------------------------------------


def test_the_same_key_inside_of_its_computation(cache: Any) -> None:
    # As with Django: the inner value is there first.
    assert cache.get_or_set("k", lambda: cache.get_or_set("k", lambda: 1) + 1) == 1

    def fails() -> int:
        raise KeyError

    def compute() -> int:
        with pytest.raises(KeyError):
            cache.get_or_set("l", fails)
        return 2

    assert cache.get_or_set("l", compute) == 2


def test_another_key_inside_of_a_computation(cache: Any) -> None:
    assert cache.get_or_set("k", lambda: cache.get_or_set("l", lambda: 1) + 1) == 2
    assert cache.get_many(["k", "l"]) == {"k": 2, "l": 1}


def test_a_value_that_is_written_meanwhile_has_precedence(cache: Any) -> None:
    def compute() -> str:
        cache.set("k", "written")
        return "computed"

    assert cache.get_or_set("k", compute) == "written"
    assert cache.get("k") == "written"


def test_a_fork_inside_of_a_computation(cache: Any) -> None:
    parent = os.getpid()

    def compute() -> int:
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        return 5

    try:
        value = cache.get_or_set("k", compute, 60)
    finally:
        if os.getpid() != parent:
            # The child has the value too.
            os._exit(0 if value == 5 and cache.get("other", 1) == 1 else 1)
    assert value == 5
    assert cache.get("k") == 5


# --- stale values ---------------------------------------------------------------------


def make_stale(cache: Any, key: str, value: Any) -> None:
    cache.get_or_set(key, lambda: value, timeout=0.05, stale=600)
    eventually(lambda: cache.get(key, "none") == "none", "it is stale")


def test_the_others_get_the_stale_value(cache: Any) -> None:
    make_stale(cache, "k", "old")
    assert cache.get_many(["k"]) == {}
    computation = Computation("new")
    with ThreadPoolExecutor(1) as pool:
        value = pool.submit(cache.get_or_set, "k", computation, 60, stale=600)
        assert computation.has_begun.wait(PATIENCE)
        assert cache.get_or_set("k", lambda: pytest.fail("computed twice"), 60, stale=600) == "old"
        computation.may_end.set()
        assert value.result(PATIENCE) == "new"
    assert cache.get("k") == "new"
    assert cache.get_many(["k"]) == {"k": "new"}
    assert asyncio.run(cache.aget("k")) == "new"


def test_a_failure_returns_the_stale_value(cache: Any, caplog: pytest.LogCaptureFixture) -> None:
    make_stale(cache, "k", "old")
    computation = Computation(ValueError("database is down"))
    computation.may_end.set()
    with caplog.at_level(logging.WARNING):
        assert cache.get_or_set("k", computation, 60, stale=600) == "old"
    assert "database is down" in caplog.text
    # Without a stale time, the caller wants no stale value.
    with pytest.raises(ValueError, match="database"):
        cache.get_or_set("k", computation, 60)
    assert cache.get_or_set("k", lambda: "new", 60) == "new"
    assert cache.get("k") == "new"


def test_the_stale_time_of_the_settings(redis_url: str) -> None:
    cache = cache_at(redis_url, "settings", STALE=600)
    cache.get_or_set("k", lambda: "old", 0.05)
    eventually(lambda: cache.get("k") is None, "it is stale")
    assert 500 < cache.client._store(0).execute("PTTL", cache.make_key("k")) / 1000 <= 601


# --- async ------------------------------------------------------------------------------


def test_one_task_computes_for_all(cache: Any) -> None:
    calls = []

    async def compute() -> str:
        calls.append(1)
        await asyncio.sleep(0.1)
        return "value"

    async def use() -> None:
        values = await asyncio.gather(*(cache.aget_or_set("k", compute) for _ in range(50)))
        assert values == ["value"] * 50
        assert await cache.aget_or_set("plain", lambda: 5) == 5
        assert await cache.aget_or_set("constant", "c") == "c"

    asyncio.run(use())
    assert len(calls) == 1


def test_a_task_that_is_cancelled_frees_the_next_one(cache: Any) -> None:
    async def use() -> None:
        has_begun = asyncio.Event()

        async def never() -> None:
            has_begun.set()
            await asyncio.Event().wait()

        first = asyncio.create_task(cache.aget_or_set("k", never))
        await has_begun.wait()
        second = asyncio.create_task(cache.aget_or_set("k", lambda: "second"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == "second"
        # A computation that is cancelled before it has begun leaves nothing behind.
        third = asyncio.create_task(cache.aget_or_set("other", never))
        await asyncio.sleep(0)
        third.cancel()
        assert await cache.aget_or_set("other", lambda: 1) == 1

    asyncio.run(use())


def test_the_same_key_inside_of_its_task(cache: Any) -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        # Also in a task that the computation has started.
        value: int = await asyncio.create_task(cache.aget_or_set("k", inner))
        return value + 1

    assert asyncio.run(cache.aget_or_set("k", outer)) == 1


def test_a_synchronous_call_does_not_wait_for_a_task_of_its_own_loop(cache: Any) -> None:
    async def use() -> None:
        has_begun, may_end = asyncio.Event(), asyncio.Event()

        async def compute() -> str:
            has_begun.set()
            await may_end.wait()
            return "task"

        task = asyncio.create_task(cache.aget_or_set("k", compute))
        await has_begun.wait()
        assert cache.get_or_set("k", lambda: "synchronous") == "synchronous"
        may_end.set()
        assert await task == "synchronous"

    asyncio.run(use())


def test_a_failure_in_a_task(cache: Any) -> None:
    async def fail() -> None:
        raise ValueError("in a task")

    async def use() -> None:
        with pytest.raises(ValueError, match="in a task"):
            await cache.aget_or_set("k", fail)
        assert await cache.aget_or_set("k", lambda: "old", 0.05, stale=600) == "old"
        deadline = time.monotonic() + PATIENCE
        while await cache.aget("k") is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert await cache.aget_or_set("k", fail, 60, stale=600) == "old"

    asyncio.run(use())


# --- as Django's and django-redis' -------------------------------------------------------


@pytest.mark.parametrize("value", [5, -(2**70), True, None, 1.5, "text", {"a": [1, 2]}, b"\x00"])
def test_django_redis_reads_a_computed_value(redis_url: str, value: Any) -> None:
    caches = peers(redis_url)
    caches.ours.clear()
    missing = object()
    assert caches.ours.get_or_set("k", lambda: value, 60) == value
    assert caches.theirs.get("k", missing) == value
    assert 50 < caches.theirs.ttl("k") <= 60
    assert caches.ours.get_or_set("n", lambda: value, None) == value
    assert caches.theirs.ttl("n") is None
    assert caches.ours.get_or_set("v", lambda: value, version=2) == value
    assert caches.theirs.get("v", missing) is missing
    assert caches.theirs.get("v", missing, version=2) == value
    # Not computed again, None included.
    assert caches.ours.get_or_set("k", lambda: pytest.fail("computed twice")) == value


@pytest.mark.parametrize("timeout", [0, -1])
def test_what_expires_at_once_is_computed_each_time(cache: Any, timeout: int) -> None:
    assert cache.get_or_set("k", lambda: 1, timeout) == 1
    assert cache.get_or_set("k", lambda: 2, timeout) == 2


def test_a_timeout_of_many_years(cache: Any, redis_url: str) -> None:
    century_s = 100 * 365 * 24 * 3600
    assert cache.get_or_set("k", lambda: 1, century_s) == 1
    assert cache.ttl("k") > century_s - 1000


def test_a_hit_is_one_command() -> None:
    with servers.redis() as redis, redis_py.Redis.from_url(redis.url) as raw:
        cache = cache_at(redis.url)
        assert cache.get_or_set("k", lambda: 1) == 1
        eventually(
            lambda: not cache.client._store(0).holders("write", lock_name(cache, "k")),
            "the lock is released",
        )
        raw.config_resetstat()
        assert cache.get_or_set("k", lambda: 2) == 1
        sent = {name: stats["calls"] for name, stats in raw.info("commandstats").items()}
        assert sent.pop("cmdstat_get") == 1
        # The other connection's.
        assert set(sent) <= {"cmdstat_config|resetstat", "cmdstat_info", "cmdstat_ping"}


@pytest.mark.parametrize(
    "options",
    [
        {"CLIENT_CLASS": "lockstock.django.client.HerdClient"},
        {"COMPUTE_ONCE": None},
        {"SERIALIZER": "lockstock.django.serializers.json.JSONSerializer"},
        {"COMPRESSOR": "lockstock.django.compressors.zlib.ZlibCompressor"},
    ],
)
def test_other_clients_and_settings(redis_url: str, options: dict[str, Any]) -> None:
    cache = cache_at(redis_url, "others", **options)
    cache.clear()
    assert cache.get_or_set("k", lambda: ["a" * 100], 60) == ["a" * 100]
    assert cache.get_or_set("k", lambda: "other", 60) == ["a" * 100]


def test_the_sharded_client(redis: servers.Redis) -> None:
    urls = [redis.url_of(4), redis.url_of(5)]
    cache = cache_at(urls, CLIENT_CLASS="lockstock.django.client.ShardClient")
    keys = [f"k{number}" for number in range(20)]
    assert [cache.get_or_set(key, lambda key=key: key) for key in keys] == keys
    assert cache.get_many(keys) == dict(zip(keys, keys, strict=True))
    assert all(_core.Store(url).execute("DBSIZE") > 0 for url in urls)


def test_an_unknown_scope_is_refused(redis_url: str) -> None:
    cache = cache_at(redis_url, COMPUTE_ONCE="machine")
    with pytest.raises(ImproperlyConfigured, match="COMPUTE_ONCE"):
        cache.get_or_set("k", 1)
