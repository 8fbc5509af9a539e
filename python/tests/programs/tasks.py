"""Tasks for celery: `LOCKSTOCK_URL=… celery -A tasks worker`."""

from __future__ import annotations

import os

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from caches import cache_at

URL = os.environ["LOCKSTOCK_URL"]
app = Celery("tasks", broker=URL, backend=URL)
CACHE = cache_at(URL, "celery")
# Before the fork.
CACHE.set("shared", 1)
with CACHE.lock("warm", timeout=30):
    pass


@app.task
def add() -> int:
    with CACHE.lock("total-lock", timeout=30):
        total = CACHE.get("total", 0) + CACHE.get("shared")
        CACHE.set("total", total)
    return total


@app.task(soft_time_limit=1)
def wait() -> str:
    try:
        CACHE.lock("held", timeout=60).acquire()
    except SoftTimeLimitExceeded:
        return "interrupted"
    return "acquired"
