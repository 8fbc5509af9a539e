"""Settings that a test changes by pytest-django or Django, and that are back after it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from django.conf import settings as project_settings
from django.core.cache import cache, caches
from django.test import override_settings


def changed() -> dict[str, Any]:
    """Returns the settings of the cache with another prefix, and a further cache."""
    wanted = copy.deepcopy(project_settings.CACHES)
    wanted["default"]["KEY_PREFIX"] = "changed"
    wanted["local"] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    return wanted


@pytest.fixture(autouse=True)
def before() -> Any:
    """A value under the prefix of the settings, which is there after each test."""
    cache.set("k", "of the settings")
    yield
    assert cache.get("k") == "of the settings"
    assert cache.key_prefix == "project"


def test_the_fixture_of_pytest_django(settings: Any) -> None:
    settings.CACHES = changed()
    assert cache.get("k") is None
    cache.set("k", "changed")
    assert cache.get("k") == "changed"
    with cache.lock("l", timeout=30) as lock:
        assert lock.name.startswith("changed:")
    caches["local"].set("k", 1)


def test_override_settings() -> None:
    assert cache.get("k") == "of the settings"
    with override_settings(CACHES=changed()):
        assert cache.get("k") == "changed"
    assert cache.get("k") == "of the settings"


def test_another_store(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    assert cache.get("k") is None
