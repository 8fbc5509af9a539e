"""Processes that wait for a lock, each on a socket of its own thread."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pytest
import redis as redis_py

import lockstock
from caches import eventually, waiters
from programs import started

_LEASE_S = 60


def store_at(url: str) -> lockstock.Store:
    # The default timeout, 1 s, is too short on a busy machine.
    return lockstock.Store(url, timeout=10)


@contextmanager
def waiting(url: str, name: str, lease_s: float = _LEASE_S) -> Iterator[subprocess.Popen[str]]:
    """Runs a process that waits for a lock, and waits until it does."""
    store = store_at(url).lock(name, timeout=lease_s).store
    before = waiters(store, name)
    process = started("waiter", url, name, str(lease_s))
    try:
        eventually(lambda: waiters(store, name) == before + 1, "it waits")
        yield process
    finally:
        process.kill()
        process.communicate()


def fence_of(process: subprocess.Popen[str]) -> int:
    """Waits until the process has the lock."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def release(process: subprocess.Popen[str]) -> None:
    process.communicate("\n")
    assert process.returncode == 0


def test_processes_are_served_in_the_order_of_their_arrival(redis_url: str) -> None:
    with ExitStack() as stack:
        lock = store_at(redis_url).lock("order", timeout=_LEASE_S)
        lock.acquire()
        processes = [stack.enter_context(waiting(redis_url, "order")) for _ in range(4)]
        last = lock.fence
        lock.release()
        for process in processes:
            fence = fence_of(process)
            assert fence > last
            last = fence
            release(process)
    assert not lock.locked()


def test_a_waiter_that_was_killed_is_passed_over(redis_url: str) -> None:
    lock = store_at(redis_url).lock("killed", timeout=_LEASE_S)
    lock.acquire()
    with waiting(redis_url, "killed") as first, waiting(redis_url, "killed") as second:
        first.send_signal(signal.SIGKILL)
        first.wait()
        lock.release()
        fence_of(second)
        release(second)
    assert not lock.locked()


def test_a_waiter_that_is_stopped_delays_the_next_one_and_follows_it(redis_url: str) -> None:
    lock = store_at(redis_url).lock("stopped", timeout=_LEASE_S)
    lock.acquire()
    with waiting(redis_url, "stopped") as first, waiting(redis_url, "stopped") as second:
        # A grant to a process that has waited for so long is short until it is confirmed.
        time.sleep(0.3)
        first.send_signal(signal.SIGSTOP)
        lock.release()
        fence = fence_of(second)
        first.send_signal(signal.SIGCONT)
        release(second)
        assert fence_of(first) > fence
        release(first)


def test_a_holder_that_was_killed_is_followed_at_the_end_of_its_lease(redis_url: str) -> None:
    lock = store_at(redis_url).lock("crashed", timeout=_LEASE_S)
    lock.acquire()
    with waiting(redis_url, "crashed", 2) as first, waiting(redis_url, "crashed") as second:
        lock.release()
        fence_of(first)
        first.send_signal(signal.SIGKILL)
        fence_of(second)
        release(second)


def test_a_wait_whose_connection_was_closed_goes_on(redis_url: str, raw: redis_py.Redis) -> None:
    lock = store_at(redis_url).lock("closed", timeout=_LEASE_S)
    lock.acquire()
    with waiting(redis_url, "closed") as process:
        assert raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
        lock.release()
        fence_of(process)
        release(process)


def test_threads_of_one_process_wait_for_one_lock(redis_url: str) -> None:
    store, names = store_at(redis_url), ["threads", "others"]
    fences: dict[str, list[int]] = {name: [] for name in names}

    def work(name: str) -> None:
        for _ in range(50):
            with store.lock(name, timeout=_LEASE_S) as lock:
                fences[name].append(lock.fence)

    held = [store_at(redis_url).lock(name, timeout=_LEASE_S) for name in names]
    for lock in held:
        lock.acquire()
    threads = [threading.Thread(target=work, args=(names[n % 2],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for lock in held:
        lock.release()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for some in fences.values():
        # Those of the other name may be equal.
        assert len(some) == 150
        assert some == sorted(set(some))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_of_a_handler_does_not_wait_in_place_of_its_parent(redis_url: str) -> None:
    holder = store_at(redis_url).lock("forked", timeout=_LEASE_S, thread_local=False)
    lock = store_at(redis_url).lock("forked", timeout=_LEASE_S)
    parent, statuses = os.getpid(), []

    def fork(number: int, frame: FrameType | None) -> None:
        pid = os.fork()
        if pid:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            threading.Thread(target=holder.release).start()

    before: Any = signal.signal(signal.SIGALRM, fork)
    holder.acquire()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        lock.acquire()
    except lockstock.errors.Unavailable:
        # Only the child stops waiting.
        os._exit(0 if os.getpid() != parent else 1)
    finally:
        if os.getpid() != parent:
            os._exit(2)
        signal.signal(signal.SIGALRM, before)
    assert statuses == [0] and lock.owned()
    lock.release()
