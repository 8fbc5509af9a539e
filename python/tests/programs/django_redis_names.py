"""The name `django_redis` for this package."""

# ruff: noqa: E402
from __future__ import annotations

import pickle
import sys

from lockstock.django import as_django_redis
from project import configure
from project.settings import CACHES

as_django_redis()
as_django_redis()
configure(CACHES={"default": {**CACHES["default"], "BACKEND": "django_redis.cache.RedisCache"}})

import django_redis
import django_redis.client.default
from django.core.cache import cache, caches
from django_redis import get_redis_connection
from django_redis.cache import RedisCache
from django_redis.client import DefaultClient, HerdClient, ShardClient  # noqa: F401
from django_redis.compressors.zlib import ZlibCompressor
from django_redis.exceptions import ConnectionInterrupted
from django_redis.serializers.json import JSONSerializer

import lockstock.django.cache
import lockstock.django.exceptions

assert django_redis is sys.modules["lockstock.django"]
assert RedisCache is lockstock.django.cache.RedisCache
assert ConnectionInterrupted is lockstock.django.exceptions.ConnectionInterrupted
assert isinstance(caches["default"], RedisCache)
cache.set("k", "v")
assert get_redis_connection().exists(cache.client.make_key("k"))
# A module keeps its own name: what is pickled in this process is read in others.
for module in (RedisCache, DefaultClient, ZlibCompressor, JSONSerializer, ConnectionInterrupted):
    assert module.__module__.startswith("lockstock.django.")
assert lockstock.django.cache.__spec__.name == "lockstock.django.cache"
assert pickle.loads(pickle.dumps(ConnectionInterrupted())).__class__ is ConnectionInterrupted
try:
    import django_redis.client.mixins  # noqa: F401
except ModuleNotFoundError:
    pass
else:
    raise AssertionError
print("ok")
