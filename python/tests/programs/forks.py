"""Forks while other threads use the cache: `forks.py URL CHILDREN`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import warnings

from caches import cache_at

_BUSY_THREADS = 6
_CHILD_TIMEOUT_S = 30


def main(url: str, children: int) -> None:
    cache = cache_at(url, "forks")
    cache.set("shared", {"value": 1})
    wrong: list[str] = []
    is_done = threading.Event()

    def work(thread: int) -> None:
        number = 0
        while not is_done.is_set():
            number += 1
            key, value = f"t{thread}", [thread, number]
            cache.set(key, value)
            if (got := cache.get(key)) != value:
                wrong.append(f"{key}: {got} instead of {value}")
            if number % 7 == 0:
                with cache.lock(f"lock{thread % 2}", timeout=30):
                    pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(_BUSY_THREADS)]
    for thread in threads:
        thread.start()
    # The parent has a runtime, and an event loop that has ended.
    asyncio.run(cache.aget("shared"))
    failed = [pid for pid in fork_all(url, cache, children) if not has_answered(pid)]
    is_done.set()
    for thread in threads:
        thread.join()
    assert wrong == [], wrong[:5]
    assert failed == [], f"{len(failed)} of {children} children did not answer"


def fork_all(url, cache, children):
    for child in range(children):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                use_in_child(cache, child)
                status = 0
            finally:
                os._exit(status)
        yield pid


def use_in_child(cache, child: int) -> None:
    signal.alarm(_CHILD_TIMEOUT_S)

    def use(thread: int) -> None:
        key = f"c{child}.{thread}"
        cache.set(key, key, 60)
        if cache.get(key) == key and cache.get("shared") == {"value": 1}:
            answers.append(key)

    answers: list[str] = []
    threads = [threading.Thread(target=use, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3
    with cache.lock(f"lock{child % 2}", timeout=30) as lock:
        assert lock.owned()
    assert asyncio.run(cache.aget("shared")) == {"value": 1}


def has_answered(pid: int) -> bool:
    deadline = time.monotonic() + _CHILD_TIMEOUT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


# Python 3.12 and later warn that what this program does may block a child.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
main(sys.argv[1], int(sys.argv[2]))
