"""Locks behave as redis-py's `Lock` does, whose documentation and tests are the measure."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py
from redis.exceptions import LockError, LockNotOwnedError

import lockstock
from caches import cache_at, eventually
from programs import finished

# Within this, what should happen at once has happened, on a busy machine too.
PATIENCE = 30.0


def test_a_lock(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=100)
    assert lock.acquire(blocking=False)
    assert lock.locked()
    assert lock.owned()
    assert 99_000 < raw.pttl("test:1:name") <= 100_000
    assert lock.local.token.encode() in raw.get("test:1:name")
    lock.release()
    assert raw.get("test:1:name") is None
    assert lock.local.token is None
    assert not lock.locked()
    assert not lock.owned()


def test_the_object_has_the_attributes_of_redis_py(cache: Any) -> None:
    lock = cache.lock("name", timeout=3, sleep=0.2, blocking=False, blocking_timeout=1)
    assert isinstance(lock, lockstock.Lock)
    assert (lock.name, lock.timeout, lock.sleep) == ("test:1:name", 3, 0.2)
    assert (lock.blocking, lock.blocking_timeout, lock.thread_local) == (False, 1, True)
    assert lock.local.token is None


def test_timeouts_may_be_floats(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=9.5)
    assert lock.acquire(blocking=False)
    assert 9000 < raw.pttl("test:1:name") <= 9500
    lock.release()


def test_a_lock_ends_with_its_lease(cache: Any) -> None:
    first, second = cache.lock("name", timeout=0.2), cache.lock("name", timeout=100)
    assert first.acquire()
    assert second.acquire(blocking_timeout=PATIENCE)
    assert first.lost
    assert not first.owned()
    with pytest.raises(LockNotOwnedError):
        first.release()
    assert second.owned()
    second.release()


def test_a_busy_lock_is_not_acquired(cache: Any) -> None:
    held, lock = cache.lock("name", timeout=100), cache.lock("name", timeout=100)
    assert held.acquire()
    assert lock.acquire(blocking=False) is False
    # Tried once.
    assert lock.acquire(blocking_timeout=0) is False
    # Shorter than `sleep`, which redis-py gives up for at once.
    began = time.monotonic()
    assert lock.acquire(sleep=10, blocking_timeout=0.1) is False
    assert time.monotonic() - began >= 0.1
    assert lock.locked()
    assert not lock.owned()
    held.release()
    assert lock.acquire(blocking_timeout=0)
    lock.release()


def test_blocking_and_blocking_timeout_of_the_constructor(cache: Any) -> None:
    held = cache.lock("name", timeout=100)
    assert held.acquire()
    assert not cache.lock("name", timeout=100, blocking=False).acquire()
    assert not cache.lock("name", timeout=100, blocking_timeout=0.05).acquire()
    # The call has precedence.
    assert not cache.lock("name", timeout=100, blocking=False).acquire(
        blocking=True, blocking_timeout=0.05
    )
    held.release()


def test_a_waiter_gets_the_lock_when_it_is_released(cache: Any) -> None:
    held, lock = cache.lock("name", timeout=100), cache.lock("name", timeout=100)
    assert held.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: lock.acquire(blocking_timeout=PATIENCE) and lock.local.token)
        held.release()
        assert waiting.result(PATIENCE)


def test_release_of_what_is_not_held(cache: Any) -> None:
    lock = cache.lock("name", timeout=100)
    with pytest.raises(LockError) as raised:
        lock.release()
    assert not isinstance(raised.value, LockNotOwnedError)
    assert raised.value.lock_name == "test:1:name"
    assert isinstance(raised.value, lockstock.errors.LockError)
    # redis-py's class is a ValueError for historical reasons.
    assert isinstance(raised.value, ValueError)


def test_release_of_what_another_client_holds(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=100)
    assert lock.acquire(blocking=False)
    raw.set("test:1:name", "a")
    assert lock.locked()
    assert not lock.owned()
    with pytest.raises(LockNotOwnedError):
        lock.release()
    # The token is forgotten even if the lock was not released.
    assert lock.local.token is None
    assert raw.get("test:1:name") == b"a"


def test_extend_and_reacquire(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=10)
    assert lock.acquire(blocking=False)
    assert lock.extend(10) is True
    assert 18_000 < raw.pttl("test:1:name") <= 20_000
    assert lock.reacquire() is True
    assert 8_000 < raw.pttl("test:1:name") <= 10_000
    assert lock.extend(30, replace_ttl=True) is True
    assert 28_000 < raw.pttl("test:1:name") <= 30_000
    assert lock.extend(0.5) is True
    assert 28_500 < raw.pttl("test:1:name") <= 30_500
    lock.release()


def test_extend_can_make_the_lease_shorter(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=60)
    assert lock.acquire()
    fence = lock.fence
    assert lock.extend(5, replace_ttl=True) is True
    assert 0 < raw.pttl("test:1:name") <= 5_000
    assert 0 < lock.remaining() <= 5
    assert lock.reacquire() is True
    assert 50_000 < raw.pttl("test:1:name") <= 60_000
    assert lock.extend(-50) is True
    assert 0 < raw.pttl("test:1:name") <= 10_000
    assert lock.fence == fence
    assert lock.owned()
    # redis-py would release it without a word.
    for arguments in ((0, True), (-1, True), (-60,)):
        with pytest.raises(lockstock.errors.Invalid, match="release"):
            lock.extend(*arguments)
    # Another client may have it when the shorter lease ends.
    assert lock.extend(0.2, replace_ttl=True)
    assert cache.lock("name", timeout=60).acquire(blocking_timeout=PATIENCE)
    assert lock.lost


def test_a_renewed_lock_is_not_lost_by_a_shorter_lease(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=60, renew=True)
    assert lock.acquire()
    assert lock.extend(1, replace_ttl=True)
    eventually(lambda: raw.pttl("test:1:name") > 10_000, "the lease is renewed")
    assert not lock.lost
    lock.release()


@pytest.mark.parametrize("call", ["extend", "reacquire"])
def test_extend_and_reacquire_of_what_is_not_held(
    cache: Any, raw: redis_py.Redis, call: str
) -> None:
    arguments = (10,) if call == "extend" else ()
    lock = cache.lock("name", timeout=10)
    with pytest.raises(LockError) as raised:
        getattr(lock, call)(*arguments)
    assert not isinstance(raised.value, LockNotOwnedError)
    assert lock.acquire(blocking=False)
    raw.set("test:1:name", "a")
    with pytest.raises(LockNotOwnedError):
        getattr(lock, call)(*arguments)


@pytest.mark.filterwarnings("ignore:the lock:RuntimeWarning")
def test_extend_and_reacquire_without_a_timeout(cache: Any) -> None:
    lock = cache.lock("name")
    assert lock.acquire(blocking=False)
    for call in (lambda: lock.extend(10), lock.reacquire):
        with pytest.raises(LockError, match="no timeout"):
            call()
    lock.release()


def test_the_context_manager(cache: Any, raw: redis_py.Redis) -> None:
    with cache.lock("name", timeout=100) as lock:
        assert lock.owned()
    assert raw.get("test:1:name") is None
    with pytest.raises(KeyError), cache.lock("name", timeout=100):
        raise KeyError
    assert raw.get("test:1:name") is None


def test_the_context_manager_of_a_busy_lock(cache: Any) -> None:
    held = cache.lock("name", timeout=100)
    assert held.acquire()
    with pytest.raises(LockError, match="within the time specified"):
        with cache.lock("name", timeout=100, blocking_timeout=0.05):
            pytest.fail("entered the block of a busy lock")
    held.release()


def test_the_context_manager_of_a_lock_that_is_lost(
    cache: Any, raw: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LockNotOwnedError), cache.lock("name", timeout=100):
        raw.delete("test:1:name")
    lock = cache.client.lock("name", timeout=100, raise_on_release_error=False)
    with caplog.at_level(logging.WARNING), lock:
        raw.delete("test:1:name")
    assert "no longer owned" in caplog.text
    # Only for the block: an explicit release reports it.
    assert lock.acquire()
    raw.delete("test:1:name")
    with pytest.raises(LockNotOwnedError):
        lock.release()


def test_a_thread_does_not_release_what_another_holds(cache: Any) -> None:
    lock = cache.lock("name", timeout=100)
    assert lock.acquire()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.owned).result(PATIENCE) is False
        with pytest.raises(LockError, match="by this thread"):
            pool.submit(lock.release).result(PATIENCE)
    assert lock.owned()
    lock.release()


def test_a_thread_releases_what_another_holds_without_thread_local(cache: Any) -> None:
    lock = cache.lock("name", timeout=100, thread_local=False)
    assert lock.acquire()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.owned).result(PATIENCE) is True
        pool.submit(lock.release).result(PATIENCE)
    assert not lock.locked()


def test_one_object_in_several_threads(cache: Any) -> None:
    lock, busy, most = cache.lock("name", timeout=100), 0, 0

    def work() -> None:
        nonlocal busy, most
        for _ in range(20):
            with lock:
                busy += 1
                most = max(most, busy)
                time.sleep(0)
                busy -= 1

    _in_threads(4, work)
    assert most == 1
    assert not lock.locked()


def test_a_lock_is_not_acquired_twice_by_one_object(cache: Any) -> None:
    lock = cache.lock("name", timeout=100)
    assert lock.acquire()
    with pytest.raises(LockError, match="already holds"):
        lock.acquire(blocking=False)
    lock.release()
    assert lock.acquire(blocking=False)
    lock.release()


def test_versions_are_different_locks(cache: Any) -> None:
    with cache.lock("name", timeout=100), cache.lock("name", version=2, timeout=100):
        assert not cache.lock("name", timeout=100).acquire(blocking=False)


def test_a_kept_lock_rejects_at_once(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=60)
    assert lock.acquire()
    lock.keep()
    assert 55_000 < raw.pttl("test:1:name") <= 60_000
    began = time.monotonic()
    assert cache.lock("name", timeout=3).acquire(blocking_timeout=30) is False
    assert time.monotonic() - began < 15
    with pytest.raises(LockError):
        lock.release()


def test_a_lock_whose_object_is_collected_stays_held(cache: Any, raw: redis_py.Redis) -> None:
    def acquire() -> None:
        assert cache.lock("name", timeout=60).acquire()

    acquire()
    gc.collect()
    # It cannot be released any more, so a waiter need not wait.
    began = time.monotonic()
    assert cache.lock("name", timeout=3).acquire(blocking_timeout=30) is False
    assert time.monotonic() - began < 15
    assert 45_000 < raw.pttl("test:1:name") <= 60_000


def test_a_release_inside_the_block_is_the_only_one(cache: Any, raw: redis_py.Redis) -> None:
    with cache.lock("name", timeout=100) as lock:
        lock.release()
        # What another client acquires meanwhile stays.
        raw.set("test:1:name", "another")
    assert raw.get("test:1:name") == b"another"
    raw.delete("test:1:name")


# --- leases without an end ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the lock:RuntimeWarning")
@pytest.mark.parametrize("timeout", [None, 0])
def test_a_lock_without_a_timeout_ends_with_its_process(
    cache: Any, raw: redis_py.Redis, timeout: float | None
) -> None:
    pid = os.fork()
    if not pid:
        cache.lock("name", timeout=timeout).acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    # redis-py would leave it held for ever.
    assert 0 < raw.pttl("test:1:name") <= 30_000


def test_the_deadline_is_that_of_the_monotonic_clock(cache: Any) -> None:
    with cache.lock("name", timeout=100) as lock:
        before = time.monotonic()
        deadline, remaining = lock.deadline, lock.remaining()
        assert before + 50 < deadline <= time.monotonic() + 100
        assert 50 < remaining <= 100
    with pytest.raises(LockError):
        _ = lock.deadline
    assert lock.remaining() == 0


@pytest.mark.filterwarnings("ignore:the lock:RuntimeWarning")
def test_a_lock_without_a_timeout_whose_object_is_collected_stays_held(cache: Any) -> None:
    def acquire() -> None:
        assert cache.lock("endless").acquire()

    acquire()
    gc.collect()
    lock = cache.lock("endless", timeout=3)
    assert lock.acquire(blocking_timeout=0.3) is False
    assert lock.locked()


def test_a_lock_of_a_thread_that_has_ended_stays_held(cache: Any) -> None:
    lock = cache.lock("name", timeout=60)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock.acquire(blocking_timeout=0.1) is False
    assert lock.locked()


def test_fences_rise(cache: Any) -> None:
    fences = []
    for _ in range(3):
        with cache.lock("name", timeout=100) as lock:
            fences.append(lock.fence)
    assert fences == sorted(set(fences))


def test_a_renewed_lock_outlives_its_lease(cache: Any, raw: redis_py.Redis) -> None:
    lock = cache.lock("name", timeout=1, renew=True)
    assert lock.acquire()
    other = cache.lock("name", timeout=1)
    assert other.acquire(blocking_timeout=3) is False
    assert lock.owned()
    lock.release()


@pytest.mark.parametrize("way", ["acquire", "with", "aacquire"])
def test_a_lock_without_a_timeout_warns_once(
    cache: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("lockstock.lock._has_warned", False)

    async def acquired() -> bool:
        return bool(await lock.aacquire())

    with pytest.warns(RuntimeWarning, match="has no timeout") as warned:
        for _ in range(2):
            lock = cache.lock("name")
            if way == "with":
                with lock:
                    continue
            assert asyncio.run(acquired()) if way == "aacquire" else lock.acquire()
            lock.release()
    assert len(warned) == 1
    # The line that has to change.
    assert warned[0].filename == __file__


def test_a_store_that_is_down_is_an_error_and_no_lock(redis_url: str) -> None:
    lock = cache_at("redis://127.0.0.1:1/0", IGNORE_EXCEPTIONS=True).lock("name", timeout=3)
    with pytest.raises(redis_py.ConnectionError):
        lock.acquire(blocking_timeout=0.1)
    assert not lock.lost
    assert lock.local.token is None


def _in_threads(count: int, work: Callable[[], None]) -> None:
    failures = []

    def run() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_a_free_lock_needs_no_thread_and_a_wait_leaves_no_descriptor(redis_url: str) -> None:
    finished("alone", redis_url)
