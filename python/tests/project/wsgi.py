"""The application for a server of WSGI, which uses the cache before the server forks."""

import os
import threading

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = get_wsgi_application()

from django.core.cache import cache  # noqa: E402

# Connections, a runtime and busy threads.
cache.set("shared", ["value", 1])
with cache.lock("warm", timeout=30):
    pass


def _read() -> None:
    while True:
        assert cache.get("shared") == ["value", 1]


if os.environ.get("LOCKSTOCK_BUSY"):
    for _ in range(4):
        threading.Thread(target=_read, daemon=True).start()
