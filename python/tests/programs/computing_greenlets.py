"""Greenlets that miss the same value: `computing_greenlets.py gevent|eventlet URL`."""

# ruff: noqa: E402
from __future__ import annotations

import sys

KIND, URL = sys.argv[1:]
if KIND == "gevent":
    from gevent import monkey

    monkey.patch_all()
    from gevent import sleep, spawn
else:
    import warnings

    # It warns that it is deprecated.
    warnings.simplefilter("ignore")
    import eventlet

    eventlet.monkey_patch()
    from eventlet import sleep, spawn

from caches import cache_at

cache = cache_at(URL, f"greenlets-{KIND}", COMPUTE_WAIT=60)
called, calls = 0, []


def compute() -> str:
    calls.append(1)
    # The other greenlets go on, and call too.
    while called < 20:
        sleep(0.01)
    return "value"


def call() -> str:
    global called
    called += 1
    return cache.get_or_set("k", compute, 60)


def recursive() -> int:
    return cache.get_or_set("r", lambda: cache.get_or_set("r", lambda: 1) + 1)


def join(greenlet):
    return greenlet.get() if KIND == "gevent" else greenlet.wait()


assert [join(each) for each in [spawn(call) for _ in range(20)]] == ["value"] * 20
assert len(calls) == 1
assert join(spawn(recursive)) == 1
print("ok")
