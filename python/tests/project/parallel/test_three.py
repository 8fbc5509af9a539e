"""Tests that `manage.py test --parallel` runs in a process of their own."""

from .cases import SharedCacheCase


class Tests(SharedCacheCase):
    """The tests, in a module of its own: Django divides them by class."""
