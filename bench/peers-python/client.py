"""A client of a Python lock library, started by `./dev bench lock`: one task of its own.

    python client.py redis-py|python-redis-lock URL LEASE_MS NAME FILE

Says `ready`, reads `START END GIVE_UP` (nanoseconds of CLOCK_MONOTONIC), takes turns until END
and writes each to FILE: asked, begin, end, the last two 0 for a wait that was given up.
"""

import math
import sys
from array import array
from time import monotonic_ns, sleep

import redis
import redis_lock


class RedisPy:
    def __init__(self, client, name, lease_ms):
        self.lock = client.lock(name, timeout=lease_ms / 1000)

    def acquire(self, seconds):
        return self.lock.acquire(blocking_timeout=seconds)

    def release(self):
        self.lock.release()


class PythonRedisLock:
    def __init__(self, client, name, lease_ms):
        self.lock = redis_lock.Lock(client, name, expire=math.ceil(lease_ms / 1000))

    def acquire(self, seconds):
        # It takes whole seconds, and none for ever.
        return self.lock.acquire(timeout=math.ceil(seconds))

    def release(self):
        self.lock.release()


LIBRARIES = {"redis-py": RedisPy, "python-redis-lock": PythonRedisLock}


def take_turns(lock, end, give_up):
    turns = array("Q")
    while (asked := monotonic_ns()) < end:
        if not lock.acquire(max(give_up - asked, 1) / 1e9):
            turns.extend((asked, 0, 0))
            break
        begin = monotonic_ns()
        turns.extend((asked, begin, monotonic_ns()))
        lock.release()
    return turns


def main():
    library, url, lease_ms, name, file = sys.argv[1:]
    client = redis.Redis.from_url(url)
    # Connects, and loads what scripts there are.
    warm = LIBRARIES[library](client, f"{name}-warm-{monotonic_ns()}", int(lease_ms))
    warm.acquire(1)
    warm.release()
    lock = LIBRARIES[library](client, name, int(lease_ms))
    print("ready", flush=True)
    start, end, give_up = map(int, input().split())
    sleep(max(0, start - monotonic_ns()) / 1e9)
    turns = take_turns(lock, end, give_up)
    with open(file, "wb") as out:
        turns.tofile(out)


if __name__ == "__main__":
    main()
