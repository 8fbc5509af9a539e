"""A project on django-redis runs with this package when the name of its backend is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers

PROJECT = Path(__file__).with_name("article")
# One run takes more than a second, because the losers of the lock wait for a second.
RUNS = 50 if os.environ.get("LOCKSTOCK_WHOLE") else 3


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    with servers.postgres() as running:
        yield running


def run_tests(backend: str, runs: int, redis_url: str, postgres: servers.Postgres) -> str:
    """Runs the tests of the project. Returns what pytest printed.

    Each project has a database in Redis of its own: its products have the same numbers, and the
    locks of an earlier one are held for three seconds.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rP", "--create-db", "-c", "pytest.ini", "."],
        cwd=PROJECT,
        env={
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "SHOP_CACHE_BACKEND": backend,
            "SHOP_REDIS_URL": redis_url,
            "SHOP_POSTGRES_PORT": str(postgres.port),
            "SHOP_RUNS": str(runs),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_with_django_redis(redis: servers.Redis, postgres: servers.Postgres) -> None:
    printed = run_tests("django_redis.cache.RedisCache", 1, redis.url_of(1), postgres)
    print(printed)
    assert "1 passed" in printed


def test_with_only_the_backend_changed(redis: servers.Redis, postgres: servers.Postgres) -> None:
    printed = run_tests("lockstock.django.cache.RedisCache", RUNS, redis.url_of(2), postgres)
    print(printed)
    assert f"{3 * RUNS} passed" in printed
