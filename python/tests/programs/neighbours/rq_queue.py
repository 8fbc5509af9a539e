"""django-rq with USE_REDIS_CACHE: `rq_queue.py [as-django-redis]`."""

# ruff: noqa: E402
from __future__ import annotations

import os
import sys

from lockstock.django import as_django_redis
from project import configure

if "as-django-redis" in sys.argv:
    as_django_redis()
else:
    # As if django-redis were not installed.
    sys.modules["django_redis"] = None
configure(apps=("django_rq",), RQ_QUEUES={"default": {"USE_REDIS_CACHE": "default"}})

import django_rq
from django.core.cache import cache

job = django_rq.enqueue(os.getpid)
django_rq.get_worker("default").work(burst=True)
job.refresh()
assert job.is_finished, job.get_status()
# The jobs are in the Redis of the cache.
assert cache.get_master_client().exists(job.key)
print("ok")
