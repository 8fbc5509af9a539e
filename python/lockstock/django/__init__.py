"""A cache backend for Django with the settings, methods and bytes of django-redis.

CACHES = {
    "default": {
        "BACKEND": "lockstock.django.cache.RedisCache",
        "LOCATION": "redis://127.0.0.1:6379/1",
    }
}
"""

from __future__ import annotations

from typing import Any

from .alias import as_django_redis

__all__ = ["as_django_redis", "get_redis_connection"]


def get_redis_connection(alias: str = "default", write: bool = True) -> Any:
    """Returns a client of redis-py with the settings of a cache. Requires `lockstock[redis]`."""
    from django.core.cache import caches

    client = getattr(caches[alias], "client", None)
    if client is None or not hasattr(client, "get_client"):
        message = "This backend does not support this feature"
        raise NotImplementedError(message)
    return client.get_client(write)
