"""Holds a lock through django-redis or redis-py until a line arrives on standard input.

Usage: lock_holder.py REDIS_URL django-redis|redis-py NAME
Prints `held`, then `released`; or `busy`.
"""

import sys

url, library, name = sys.argv[1:]

if library == "django-redis":
    from django.conf import settings

    settings.configure(
        CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}}
    )
    from django.core.cache import cache

    lock = cache.lock(name, timeout=600, blocking_timeout=0.2)
else:
    import redis

    lock = redis.Redis.from_url(url).lock(name, timeout=600, blocking_timeout=0.2)

if lock.acquire():
    print("held", flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
else:
    print("busy", flush=True)
