"""django-constance, which keeps values in Redis and a copy in the cache."""

# ruff: noqa: E402
from __future__ import annotations

from project import configure

configure(
    apps=("constance",),
    CONSTANCE_CONFIG={"LIMIT": (5, "The limit of an order.")},
    CONSTANCE_BACKEND="constance.backends.database.DatabaseBackend",
    CONSTANCE_DATABASE_CACHE_BACKEND="default",
)

from constance import config
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

call_command("migrate", verbosity=0)
assert config.LIMIT == 5
config.LIMIT = 7
assert config.LIMIT == 7
with CaptureQueriesContext(connection) as queries:
    assert config.LIMIT == 7
# Answered by the cache.
assert len(queries) == 0
assert cache.keys("*LIMIT*")
print("ok")
