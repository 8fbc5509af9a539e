"""Locks and a cache in Redis, for Python and for Django.

store = lockstock.Store("redis://127.0.0.1:6379/1")
with store.lock("product-42", timeout=3, blocking_timeout=1) as lock:
    ...

The cache backend for Django is `lockstock.django.cache.RedisCache`. The errors are those of
`lockstock.errors`.
"""

from . import errors
from .lock import Lock
from .multi import MultiLock
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cache import Cache
    from .codec import BYTES, JSON, PICKLE, Codec

__all__ = ["BYTES", "JSON", "PICKLE", "Cache", "Codec", "Lock", "MultiLock", "Store", "errors"]

# Imported when they are used: not every process has a cache, and json and pickle take a while.
_LAZY = {"BYTES": "codec", "JSON": "codec", "PICKLE": "codec", "Codec": "codec", "Cache": "cache"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    found: object = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
