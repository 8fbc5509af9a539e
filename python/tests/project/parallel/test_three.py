"""Tests that `manage.py test --parallel` runs in a process of their own."""

from . import cases


class Tests(cases.SharedCacheCase):
    """The tests, in a module of its own: Django divides them by class."""
