"""The name `django_redis` for this package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["as_django_redis"]

_DJANGO_REDIS = "django_redis"
_PACKAGE = __name__.rpartition(".")[0]


def as_django_redis() -> None:
    """Lets `import django_redis` return this package, for packages that import that name.

    Call it at the top of the settings. Each module of django-redis is then the module of
    `lockstock.django` with the same name: django-rq's USE_REDIS_CACHE and the Redis backend of
    django-prometheus use this package, and a setting may keep paths like
    `django_redis.cache.RedisCache`. Has no effect on processes that do not call it, and none if it
    is called again. django-redis may be installed.

    Raises `RuntimeError` if django-redis itself is imported already, because a part of the process
    would continue to use it.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if _DJANGO_REDIS in sys.modules:
        message = (
            f"{_DJANGO_REDIS} is imported already: call as_django_redis() before, at the top of "
            "the settings"
        )
        raise RuntimeError(message)
    # First, because django-redis may be installed.
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of this package under their names in django-redis."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _DJANGO_REDIS and not fullname.startswith(f"{_DJANGO_REDIS}."):
            return None
        found = importlib.util.find_spec(_name_here(fullname))
        if found is None:
            return None
        return ModuleSpec(fullname, self, is_package=found.submodule_search_locations is not None)

    def exec_module(self, module: ModuleType) -> None:
        # The import returns what is registered: one module under both names, so that its classes
        # are the same.
        name = module.__name__
        sys.modules[name] = importlib.import_module(_name_here(name))


def _name_here(name: str) -> str:
    return _PACKAGE + name.removeprefix(_DJANGO_REDIS)
