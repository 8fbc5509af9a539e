"""A process that acquires locks with redis-py: `contender.py URL NAME (try | take | contend)`.

`try` and `take` print the outcome of one attempt and exit, `take` without releasing the lock.
`contend` acquires it again and again until standard input ends, and prints by how many others
it was overtaken at most.
"""

import random
import sys
import threading
import time

import redis

LEASE = 600
ENTER = """
if redis.call('INCR', 'inside') ~= 1 then redis.call('INCR', 'violations') end
redis.call('INCR', 'entries')
redis.call('HINCRBY', 'entered', ARGV[1], 1)
"""


def main():
    url, name, what, *who = sys.argv[1:]
    client = redis.Redis.from_url(url)
    if what in ("try", "take"):
        lock = client.lock(name, timeout=LEASE)
        held = lock.acquire(blocking=False)
        if held and what == "try":
            lock.release()
        print("held" if held else "busy")
    else:
        contend(client, name, who[0])


def contend(client, name, who):
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    enter = client.register_script(ENTER)
    overtaken = 0
    while not stopped.is_set():
        lock = client.lock(name, timeout=LEASE, sleep=0.02)
        before = entries(client)
        lock.acquire()
        overtaken = max(overtaken, entries(client) - before)
        enter(args=[who])
        time.sleep(0.001)
        client.decr("inside")
        lock.release()
        time.sleep(random.uniform(0.005, 0.03))
    print(overtaken)


def entries(client):
    return int(client.get("entries") or 0)


main()
