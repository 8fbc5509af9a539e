"""A backend of the project's own."""

from lockstock.django.cache import RedisCache


class Derived(RedisCache):
    """Derives from the backend of the package."""
