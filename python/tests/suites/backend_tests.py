"""Django's tests of a cache backend, for this one.

`django_suite.py` copies the file into Django's tests.
"""

from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.conf import settings
from django.test import TestCase, override_settings

# As for Django's own Redis backend: Redis evicts by itself.
EXCLUDED = {"cull", "zero_cull"}


@override_settings(
    CACHES=caches_setting_for_tests(base=settings.CACHES["default"], exclude=EXCLUDED)
)
class LockstockCacheTests(BaseCacheTests, TestCase):
    """What every backend of Django does."""
