"""A Redis that is killed and comes back, a failover by sentinels, and a Cluster."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

import servers
from caches import cache_at, eventually
from lockstock import _core
from lockstock.errors import LockNotOwnedError, Unavailable


@contextmanager
def started_again(redis: servers.Redis) -> Iterator[None]:
    """Starts a Redis with the same arguments. The one before was killed."""
    again = subprocess.Popen(
        redis.process.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        again.kill()
        again.wait()


def test_redis_is_killed_and_comes_back_under_load() -> None:
    with servers.redis() as redis, ExitStack() as stack:
        cache = cache_at(redis.url, "killed", SOCKET_TIMEOUT=1)
        ignoring = cache_at(redis.url, "killed", SOCKET_TIMEOUT=1, IGNORE_EXCEPTIONS=True)
        wrong: list[object] = []
        failed, succeeded = [0], [0]
        is_done = threading.Event()

        def work(thread: int) -> None:
            number = 0
            while not is_done.is_set():
                number += 1
                key, value = f"t{thread}", [thread, number]
                try:
                    cache.set(key, value)
                    got = cache.get(key)
                    # Redis has lost everything when it comes back.
                    if got not in (value, None):
                        wrong.append((key, got, value))
                    with cache.lock(f"lock{thread % 2}", timeout=30, blocking_timeout=30):
                        pass
                    succeeded[0] += 1
                except Unavailable:
                    failed[0] += 1
                except LockNotOwnedError:
                    # Redis was killed while it was held.
                    pass

        async def work_asynchronously() -> None:
            number = 0
            while not is_done.is_set():
                number += 1
                try:
                    await cache.aset("async", number)
                    if await cache.aget("async") not in (number, None):
                        wrong.append(number)
                except Unavailable:
                    failed[0] += 1
                    await asyncio.sleep(0.001)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        threads.append(threading.Thread(target=lambda: asyncio.run(work_asynchronously())))
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: succeeded[0] > 50, "calls succeed")
            redis.process.kill()
            redis.process.wait()
            eventually(lambda: failed[0] > 50, "calls fail")
            began = time.monotonic()
            # Neither a value nor an error, and no wait for each call.
            assert [ignoring.get("t0", "default") for _ in range(50)] == ["default"] * 50
            assert ignoring.set("t0", 1) is False
            with pytest.raises(Unavailable):
                ignoring.lock("l", timeout=3).acquire()
            assert time.monotonic() - began < 20
            stack.enter_context(started_again(redis))
            before = succeeded[0]
            eventually(lambda: succeeded[0] > before + 50, "calls succeed again")
        finally:
            is_done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        for number in range(20):
            cache.set("k", number)
            assert cache.get("k") == number


def test_a_failover_by_sentinels() -> None:
    with (
        servers.redis() as master,
        servers.redis("--replicaof", "127.0.0.1", str(master.port)) as replica,
        servers.sentinel(master, "service") as sentinel,
        closing(asyncio.new_event_loop()) as loop,
    ):
        cache = cache_at(
            "redis://service/0", "failover", SENTINELS=[("127.0.0.1", sentinel)], SOCKET_TIMEOUT=2
        )
        cache.set("k", "before")
        with cache.lock("l", timeout=30):
            pass

        async def works_in_loop(value: str) -> bool:
            try:
                for _ in range(50):
                    await cache.aset("k", value)
                    assert await cache.aget("k") == value
            except Unavailable:
                return False
            return True

        assert loop.run_until_complete(works_in_loop("before"))
        # The default timeout, 1 s, is too short on a busy machine.
        watcher = _core.Store(f"redis://127.0.0.1:{sentinel}", timeout=30)
        copy = _core.Store(replica.url, timeout=30)
        eventually(lambda: copy.execute("DBSIZE") > 0, "the replica has a copy")
        eventually(
            lambda: len(watcher.execute("SENTINEL", "REPLICAS", "service")) == 1,
            "the sentinel knows the replica",
        )
        watcher.execute("SENTINEL", "FAILOVER", "service")
        eventually(
            lambda: replica.url.endswith(f":{_master_port(watcher)}/0"), "the replica is master"
        )
        master.process.send_signal(signal.SIGKILL)
        master.process.wait()

        def works() -> bool:
            try:
                cache.set("k", "after")
                return bool(cache.get("k") == "after")
            except Unavailable:
                return False

        eventually(works, "the cache uses the new master")
        eventually(lambda: loop.run_until_complete(works_in_loop("after")), "so does the loop")
        assert copy.execute("EXISTS", "failover:1:k") == 1
        with cache.lock("l", timeout=30) as lock:
            assert lock.owned()
        assert asyncio.run(cache.aget("k")) == "after"


def _master_port(watcher: _core.Store) -> int:
    _, port = watcher.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "service")
    return int(port)


def test_a_cluster() -> None:
    with ExitStack() as stack:
        # By default the port for the other nodes is 10,000 higher, which may be no port at all.
        buses = [servers.free_port() for _ in range(3)]
        options = ["--cluster-enabled", "yes", "--databases", "1", "--cluster-port"]
        nodes = [stack.enter_context(servers.redis(*options, str(bus))) for bus in buses]
        stores = [_core.Store(node.url) for node in nodes]
        bounds = [0, 5461, 10923, 16384]
        for number, store in enumerate(stores):
            store.execute("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            store.execute("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])

        def is_up(store: _core.Store) -> bool:
            return b"cluster_known_nodes:3" in _info(store) and b"state:ok" in _info(store)

        for store in stores:
            eventually(lambda s=store: is_up(s), "the cluster is up")  # type: ignore[misc]
        cache = cache_at(f"redis+cluster://127.0.0.1:{nodes[0].port}", "cluster", SOCKET_TIMEOUT=5)
        values = {f"k{number}": [number] for number in range(300)}
        cache.set_many(values)
        assert all(store.execute("DBSIZE") > 50 for store in stores)
        assert cache.get_many(values) == values
        assert {key: cache.get(key) for key in values} == values
        assert sorted(cache.keys("k*")) == sorted(values)
        assert cache.incr("counter", ignore_key_check=True) == 1
        for number in range(5):
            with cache.lock(f"l{number}", timeout=30) as lock:
                assert lock.owned()
                assert not cache.lock(f"l{number}", timeout=30).acquire(blocking=False)

        async def use() -> None:
            assert await cache.aget_many(values) == values
            async with cache.alock("async", timeout=30) as lock:
                assert await lock.aowned()
            assert await cache.adelete_pattern("k1*") == 111

        asyncio.run(use())
        assert cache.delete_many(values) == 300 - 111
        cache.clear()
        assert all(store.execute("DBSIZE") == 0 for store in stores)


def _info(store: _core.Store) -> bytes:
    info = store.execute("CLUSTER", "INFO")
    return info.encode() if isinstance(info, str) else bytes(info)
