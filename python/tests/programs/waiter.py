"""Acquires a lock, prints its fence, and releases it on a line: `waiter.py URL NAME LEASE`."""

from __future__ import annotations

import sys

import lockstock

url, name, lease = sys.argv[1:]
with lockstock.Store(url, timeout=10).lock(name, timeout=float(lease)) as lock:
    print(lock.fence, flush=True)
    sys.stdin.readline()
