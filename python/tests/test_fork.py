"""Children of a process that uses the cache, and locks that their parent holds."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import pytest

from caches import cache_at
from lockstock.errors import LockError, LockNotOwnedError
from programs import finished

_CHILDREN = 500 if os.environ.get("LOCKSTOCK_SOAK") else 60


def in_child(work: Callable[[], None]) -> int:
    """Runs work in a child, and returns its exit status."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_children_of_a_parent_with_busy_threads_answer(redis_url: str) -> None:
    finished("forks", redis_url, str(_CHILDREN))


def test_a_fork_during_the_first_lock_of_a_process(redis_url: str) -> None:
    finished("first_locks", redis_url, str(_CHILDREN))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_of_processes(redis_url: str, method: str) -> None:
    finished("pools", redis_url, method)


def test_the_end_of_a_block_in_a_child_leaves_the_lock_held(redis_url: str) -> None:
    cache = cache_at(redis_url, "blocks")
    lock = cache.lock("l", timeout=60)

    def leave() -> None:
        lock.__exit__(None, None, None)
        assert cache.lock("l").locked()
        # The object can be used for a lock of the child's own.
        assert not lock.acquire(blocking=False)

    with lock:
        assert in_child(leave) == 0
        assert lock.owned()


def test_a_child_waits_for_a_lock_while_its_parent_does(redis_url: str) -> None:
    cache, other = cache_at(redis_url, "waits"), cache_at(redis_url, "waits", SOCKET_TIMEOUT=9)

    def wait() -> None:
        for name in ("child", "both"):
            assert cache.lock(name, timeout=60).acquire(blocking_timeout=0.01) is False

    with other.lock("child", timeout=60), other.lock("both", timeout=60):
        # The thread has waited before the fork.
        wait()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for _ in range(50):
                    wait()
                status = 0
            finally:
                os._exit(status)
        for _ in range(50):
            wait()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_lock_that_is_dropped_in_a_child_stays_held(redis_url: str) -> None:
    cache = cache_at(redis_url, "drops")
    locks = [cache.lock("l", timeout=60)]
    assert locks[0].acquire()

    def drop() -> None:
        locks.clear()
        gc.collect()
        # A later command of this process reaches the store after what the drop may have sent.
        assert cache.lock("l").locked()

    assert in_child(drop) == 0
    assert locks[0].owned()
    locks[0].release()


def test_an_explicit_release_in_a_child_is_carried_out(redis_url: str) -> None:
    cache = cache_at(redis_url, "releases")
    lock = cache.lock("l", timeout=60)
    assert lock.acquire()
    assert in_child(lock.release) == 0
    assert not lock.owned()
    with pytest.raises(LockNotOwnedError):
        lock.release()


def test_a_child_does_not_hold_the_lock_of_its_parent(redis_url: str) -> None:
    cache = cache_at(redis_url, "inherits")
    lock = cache.lock("l", timeout=60)

    def look() -> None:
        assert lock.lost
        assert lock.remaining() == 0
        for change in (lock.keep, lock.reacquire):
            with pytest.raises(LockError):
                change()

    with lock:
        assert in_child(look) == 0
        assert not lock.lost
