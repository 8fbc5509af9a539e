"""A backend that counts, in the way of those of django-prometheus."""

from __future__ import annotations

from typing import Any

from django_prometheus.cache.metrics import (
    django_cache_get_total,
    django_cache_hits_total,
    django_cache_misses_total,
)

from lockstock.django.cache import RedisCache


class CountingCache(RedisCache):
    """Counts hits and misses."""

    def get(self, key: Any, default: Any = None, *args: Any, **kwargs: Any) -> Any:
        django_cache_get_total.labels(backend="ours").inc()
        found = super().get(key, None, *args, **kwargs)
        if found is None:
            django_cache_misses_total.labels(backend="ours").inc()
            return default
        django_cache_hits_total.labels(backend="ours").inc()
        return found
