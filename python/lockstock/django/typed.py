"""Django's caches with the type of the backend: `from lockstock.django.typed import cache`.

The objects are those of `django.core.cache`, whose types have no `lock` and no `alock`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["cache", "caches"]

if TYPE_CHECKING:
    from typing import Protocol

    from .cache import RedisCache

    class _Caches(Protocol):
        def __getitem__(self, alias: str) -> RedisCache: ...

    cache: RedisCache
    caches: _Caches
else:
    from django.core.cache import cache, caches
