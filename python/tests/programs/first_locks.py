"""Forks during the first lock of a process: `first_locks.py URL COUNT`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

from caches import cache_at

_GRANDCHILDREN = 4
_TIMEOUT_S = 60


def main(url: str, children: int) -> None:
    cache = cache_at(url, "first")
    for _ in range(children):
        # It has locked nothing, as each process that a server forks.
        in_child(lambda: lock_and_fork(cache))


def lock_and_fork(cache) -> None:
    thread = threading.Thread(target=lock, args=(cache, "parent"))
    thread.start()
    for number in range(_GRANDCHILDREN):
        in_child(lambda number=number: lock(cache, f"child-{number}"))
    thread.join()


def lock(cache, name: str) -> None:
    with cache.lock(name, timeout=_TIMEOUT_S) as held:
        assert held.owned()


def in_child(work) -> None:
    pid = os.fork()
    if not pid:
        signal.alarm(_TIMEOUT_S)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"a child ended with {os.waitstatus_to_exitcode(status)}"


# Python 3.12 and later warn that what this program does may block a child.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
main(sys.argv[1], int(sys.argv[2]))
