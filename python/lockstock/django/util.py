"""Keys, by django-redis' names."""

from __future__ import annotations

import re

__all__ = ["CacheKey", "default_reverse_key", "glob_escape"]

_GLOB = re.compile(r"([*?[])")


class CacheKey(str):
    """A key as it is in the store, with prefix and version."""

    __slots__ = ()

    def original_key(self) -> str:
        """Returns the key without prefix and version."""
        return self.rsplit(":", 1)[1]


def default_reverse_key(key: str) -> str:
    """Returns the key without the prefix and version of Django's default key function."""
    return key.split(":", 2)[2]


def glob_escape(text: str) -> str:
    """Returns a pattern of Redis that matches this text only."""
    return _GLOB.sub(r"[\1]", text)
