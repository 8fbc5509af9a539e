"""A Django process, django-redis and the server of this repository use one lock."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import servers
from peers import Peers, peers

PRODUCT = 1
NAME = f"product-update-lock-{PRODUCT}"
# The name that the caches of `peers` give to the lock.
TEMPLATE = "shop:1:product-update-lock-{id}"


@pytest.fixture
def caches(redis_url: str) -> Iterator[Peers]:
    caches = peers(redis_url)
    yield caches
    caches.theirs.clear()


def update(port: int) -> int:
    """Changes a product. Returns the status."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/products/{PRODUCT}/",
        data=json.dumps({"stock": 3}).encode(),
        headers={"Content-Type": "application/json"},
        method="PATCH",
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            status: int = reply.status
            return status
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.mark.parametrize("package", ["ours", "theirs"])
def test_the_server_waits_for_a_lock_of_django(
    redis: servers.Redis, caches: Peers, package: str
) -> None:
    cache: Any = getattr(caches, package)
    arguments = ["--update-lock", TEMPLATE, "--update-wait", "100ms", "--after-update", "release"]
    with servers.shop(redis, *arguments) as port:
        with cache.lock(NAME, timeout=60):
            assert update(port) == 429
        assert update(port) == 200
        with cache.lock(NAME, timeout=60, blocking_timeout=1):
            pass


@pytest.mark.parametrize("package", ["ours", "theirs"])
def test_django_does_not_acquire_a_lock_that_the_server_keeps(
    redis: servers.Redis, caches: Peers, package: str
) -> None:
    cache: Any = getattr(caches, package)
    arguments = ["--update-lock", TEMPLATE, "--update-lease", "60s", "--after-update", "keep"]
    with servers.shop(redis, *arguments) as port:
        assert update(port) == 200
        assert not cache.lock(NAME, timeout=60).acquire(blocking_timeout=0.2)
        assert cache.lock(NAME).locked()
        assert update(port) == 429
