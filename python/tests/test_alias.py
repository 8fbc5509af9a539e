"""Names of django-redis: settings that keep them, and `as_django_redis` for imports."""

from __future__ import annotations

import subprocess
import sys

import lockstock.django.client
from caches import cache_at
from programs import TESTS, environment


def run(program: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program.split(maxsplit=1)],
        env=environment(LOCKSTOCK_URL=url),
        capture_output=True,
        text=True,
        check=False,
    )


def test_modules_of_this_package_by_their_names_in_django_redis(redis_url: str) -> None:
    done = run(str(TESTS / "programs" / "django_redis_names.py"), redis_url)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_it_fails_if_django_redis_is_imported_already(redis_url: str) -> None:
    done = run(
        "-c import django_redis, lockstock.django; lockstock.django.as_django_redis()", redis_url
    )
    assert done.returncode == 1
    assert "RuntimeError: django_redis is imported already" in done.stderr


def test_without_the_call_the_name_is_that_of_django_redis(redis_url: str) -> None:
    done = run(
        "-c import lockstock.django, django_redis; print(django_redis.__version__)", redis_url
    )
    assert (done.returncode, done.stdout) == (0, "7.0.0\n"), done.stderr


def test_settings_that_keep_the_classes_of_django_redis(redis_url: str) -> None:
    cache = cache_at(
        redis_url,
        CLIENT_CLASS="django_redis.client.DefaultClient",
        SERIALIZER="django_redis.serializers.json.JSONSerializer",
        COMPRESSOR=["django_redis.compressors.zlib.ZlibCompressor"],
        CONNECTION_FACTORY="django_redis.pool.ConnectionFactory",
    )
    # Nothing of django-redis, although it is installed: its locks are others.
    assert isinstance(cache.client, lockstock.django.client.DefaultClient)
    assert isinstance(cache.lock("l", timeout=30), lockstock.Lock)
    cache.set("k", {"a": [1, 2]}, timeout=30)
    assert cache.get("k") == {"a": [1, 2]}
