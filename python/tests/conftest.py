"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import servers

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
