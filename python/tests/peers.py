"""Caches of this package and of the real django-redis, with the same settings and database."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.conf import settings

__all__ = ["Peers", "peers"]


class Peers(NamedTuple):
    """Two caches with the same keys."""

    ours: Any
    theirs: Any


def peers(url: str | list[str], options: dict[str, Any] | None = None, **params: Any) -> Peers:
    """Returns the two caches. `{}` in an option stands for the package."""
    if not settings.configured:
        settings.configure(CACHES={}, USE_TZ=False)
    import django_redis.cache

    import lockstock.django.cache

    def made(cls: Any, package: str) -> Any:
        named = {
            name: value.replace("{}", package) if isinstance(value, str) else value
            for name, value in (options or {}).items()
        }
        return cls(url, {"KEY_PREFIX": "shop", **params, "OPTIONS": named})

    return Peers(
        made(lockstock.django.cache.RedisCache, "lockstock.django"),
        made(django_redis.cache.RedisCache, "django_redis"),
    )
