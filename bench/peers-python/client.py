"""A client of a Python lock library with one task, which `./dev bench lock` starts.

    python client.py redis-py|python-redis-lock|lockstock-python URL LEASE_MS NAME FILE

Prints `ready`, reads `START END GIVE_UP` (nanoseconds of CLOCK_MONOTONIC), and acquires and
releases until END. Writes three numbers per acquisition to FILE: when acquire was called, when
it returned, and when the release began. The last two are 0 for a wait that was given up.
"""

import math
import sys
from array import array
from time import monotonic_ns, sleep



class RedisPy:
    def __init__(self, url, name, lease_ms):
        import redis

        self.lock = redis.Redis.from_url(url).lock(name, timeout=lease_ms / 1000)

    def acquire(self, seconds):
        return self.lock.acquire(blocking_timeout=seconds)

    def release(self):
        self.lock.release()


class PythonRedisLock:
    def __init__(self, url, name, lease_ms):
        import redis
        import redis_lock

        client = redis.Redis.from_url(url)
        self.lock = redis_lock.Lock(client, name, expire=math.ceil(lease_ms / 1000))

    def acquire(self, seconds):
        # The timeout is in whole seconds; without a timeout it waits forever.
        return self.lock.acquire(timeout=math.ceil(seconds))

    def release(self):
        self.lock.release()


class LockstockPython:
    def __init__(self, url, name, lease_ms):
        from lockstock import Store

        self.lock = Store(url).lock(name, timeout=lease_ms / 1000)

    def acquire(self, seconds):
        return self.lock.acquire(blocking_timeout=seconds)

    def release(self):
        self.lock.release()


LIBRARIES = {
    "redis-py": RedisPy,
    "python-redis-lock": PythonRedisLock,
    "lockstock-python": LockstockPython,
}


def run_task(lock, end, give_up):
    intervals = array("Q")
    while (requested := monotonic_ns()) < end:
        if not lock.acquire(max(give_up - requested, 1) / 1e9):
            intervals.extend((requested, 0, 0))
            break
        begin = monotonic_ns()
        intervals.extend((requested, begin, monotonic_ns()))
        lock.release()
    return intervals


def main():
    library, url, lease_ms, name, file = sys.argv[1:]
    # Connects and loads the scripts of the library.
    warm = LIBRARIES[library](url, f"{name}-warm-{monotonic_ns()}", int(lease_ms))
    warm.acquire(1)
    warm.release()
    lock = LIBRARIES[library](url, name, int(lease_ms))
    # Connected as well: a round measures no connection.
    lock.acquire(1) and lock.release()
    print("ready", flush=True)
    start, end, give_up = map(int, input().split())
    sleep(max(0, start - monotonic_ns()) / 1e9)
    intervals = run_task(lock, end, give_up)
    with open(file, "wb") as out:
        intervals.tofile(out)


if __name__ == "__main__":
    main()
