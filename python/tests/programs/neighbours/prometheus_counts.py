"""django-prometheus: a backend that derives from this one, and its own for django-redis."""

# ruff: noqa: E402
from __future__ import annotations

import os

from lockstock.django import as_django_redis
from project import configure
from project.settings import CACHES

as_django_redis()
BACKENDS = ("django_prometheus.cache.backends.redis.RedisCache", "prometheus_backend.CountingCache")
configure(
    apps=("django_prometheus",),
    CACHES={path: {**CACHES["default"], "BACKEND": path, "KEY_PREFIX": path} for path in BACKENDS}
    | {
        "default": CACHES["default"],
        "down": {
            "BACKEND": BACKENDS[0],
            # Port 1 is reserved: it refuses connections.
            "LOCATION": "redis://127.0.0.1:1/0",
            "OPTIONS": {"IGNORE_EXCEPTIONS": True},
        },
    },
)

from django.core.cache import caches
from prometheus_client import REGISTRY

import lockstock.django.cache


def count(name: str, backend: str) -> float:
    return REGISTRY.get_sample_value(f"django_cache_{name}_total", {"backend": backend}) or 0


for path, label in zip(BACKENDS, ("redis", "ours"), strict=True):
    cache = caches[path]
    assert isinstance(cache, lockstock.django.cache.RedisCache)
    cache.set("k", "v")
    assert cache.get("k") == "v"
    assert cache.get("missing", "default") == "default"
    with cache.lock("l", timeout=30) as lock:
        assert lock.owned()
    counts = [count(name, label) for name in ("get", "get_hits", "get_misses", "get_fail")]
    assert counts == [2, 1, 1, 0], counts
assert caches["down"].get("k", "default") == "default"
assert count("get_fail", "redis") == 1
assert os.environ["LOCKSTOCK_URL"]
print("ok")
