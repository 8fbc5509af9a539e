"""Computes a value that other processes compute too: `computing.py URL together COUNT|stuck`."""

from __future__ import annotations

import sys
import time

from caches import cache_at, eventually

cache = cache_at(sys.argv[1], "processes", COMPUTE_WAIT=60)


def compute_together() -> str:
    cache.incr("computations", ignore_key_check=True)
    eventually(lambda: cache.get("ready") == int(sys.argv[3]), "all processes call")
    return "value"


def compute_without_end() -> None:
    print("computing", flush=True)
    time.sleep(3600)


if sys.argv[2] == "together":
    cache.incr("ready", ignore_key_check=True)
    print(cache.get_or_set("k", compute_together, 60))
else:
    cache.get_or_set("k", compute_without_end, 60)
