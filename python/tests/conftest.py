"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

import servers
from caches import cache_at

# Django projects with settings of their own, which tests run in processes of their own.
collect_ignore = ["article", "project"]


@pytest.fixture(scope="session")
def redis() -> Iterator[servers.Redis]:
    """A private Redis, shared by the tests of this run."""
    with servers.redis() as running:
        yield running


@pytest.fixture
def redis_url(redis: servers.Redis) -> str:
    """The URL of database 0 of the private Redis."""
    return redis.url


@pytest.fixture
def cache(redis_url: str) -> Iterator[Any]:
    """A cache with the default options in database 0, emptied after the test."""
    cache = cache_at(redis_url)
    yield cache
    cache.clear()


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis_py.Redis]:
    """A client of redis-py for database 0."""
    with redis_py.Redis.from_url(redis_url) as client:
        yield client
