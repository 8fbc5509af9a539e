"""An application for gunicorn: `LOCKSTOCK_URL=… gunicorn wsgi:application`."""

from __future__ import annotations

import os
import threading

from caches import cache_at

CACHE = cache_at(os.environ["LOCKSTOCK_URL"], "wsgi")
# With --preload, the parent has connections, a runtime and threads when it forks.
CACHE.set("shared", ["value", 1])
with CACHE.lock("warm", timeout=30):
    pass
_IS_BUSY = os.environ.get("LOCKSTOCK_BUSY")


def _read() -> None:
    while True:
        assert CACHE.get("shared") == ["value", 1]


if _IS_BUSY:
    for _ in range(4):
        threading.Thread(target=_read, daemon=True).start()


def application(environ, start_response):
    number = environ["PATH_INFO"].strip("/")
    CACHE.set(f"k{number}", number, 60)
    with CACHE.lock("total-lock", timeout=30):
        total = CACHE.get("total", 0)
        CACHE.set("total", total + 1)
    body = str(CACHE.get(f"k{number}") == number and CACHE.get("shared") == ["value", 1])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]
