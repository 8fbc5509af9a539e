"""Waits until Ctrl-C: `interrupted.py URL lock|alock|get|keys`."""

from __future__ import annotations

import asyncio
import signal
import sys

from caches import cache_at

# A shell lets the processes that it starts in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
url, what = sys.argv[1:]
cache = cache_at(url, "interrupted", SOCKET_TIMEOUT=60)
if what not in ("lock", "alock"):
    cache.get("k")
    print("connected", flush=True)
    sys.stdin.readline()
    print("begins", flush=True)
if what == "lock":
    cache.lock("l", timeout=60).acquire()
elif what == "alock":
    asyncio.run(cache.alock("l", timeout=60).aacquire())
elif what == "get":
    cache.get("k")
else:
    cache.keys("*")
