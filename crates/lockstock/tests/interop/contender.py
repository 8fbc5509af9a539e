"""A process that takes locks with redis-py: `contender.py URL NAME (try | take | contend)`.

`try` and `take` say what came of one attempt and go away, `take` without giving the lock back.
`contend` takes it again and again until standard input ends, and says how often, and how long
it waited at most.
"""

import random
import sys
import threading
import time

import redis

LEASE = 60
ENTER = """
if redis.call('INCR', 'inside') ~= 1 then redis.call('INCR', 'violations') end
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
    rounds, longest = 0, 0.0
    while not stopped.is_set():
        lock = client.lock(name, timeout=LEASE, sleep=0.02)
        begun = time.monotonic()
        lock.acquire()
        longest = max(longest, time.monotonic() - begun)
        enter(args=[who])
        time.sleep(0.001)
        client.decr("inside")
        lock.release()
        rounds += 1
        time.sleep(random.uniform(0.005, 0.03))
    print(rounds, longest)


main()
