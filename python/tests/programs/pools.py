"""Pools of processes of `multiprocessing`: `pools.py URL fork|forkserver|spawn`."""

from __future__ import annotations

import multiprocessing
import sys
import threading

from caches import cache_at

_URL, _METHOD = sys.argv[1:]
_CACHE = cache_at(_URL, f"pools-{_METHOD}")


def work(number: int) -> int:
    _CACHE.set(f"k{number}", number)
    with _CACHE.lock("total-lock", timeout=30):
        _CACHE.set("total", _CACHE.get("total", 0) + number)
    return _CACHE.get(f"k{number}")


def main() -> None:
    # A lock that is held, a runtime and open connections before the fork.
    held = _CACHE.lock("held", timeout=60)
    assert held.acquire()
    threads = [threading.Thread(target=_CACHE.get, args=("total",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with multiprocessing.get_context(_METHOD).Pool(4) as pool:
        assert pool.map(work, range(100)) == list(range(100))
        pool.close()
        pool.join()
    assert _CACHE.get("total") == sum(range(100))
    assert held.owned()
    held.release()


if __name__ == "__main__":
    main()
