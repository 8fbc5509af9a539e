"""The cache backend: `"BACKEND": "lockstock.django.cache.RedisCache"`.

Settings, methods and the bytes in Redis are those of django-redis 7. One class has the synchronous
and the asynchronous methods. Locks, the near cache and what else is new: see the documentation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.module_loading import import_string

from ..lock import Lock
from . import checks  # noqa: F401  (registers the system checks)
from .computing import Computing
from .exceptions import ConnectionInterrupted
from .ignoring import (
    CONNECTION_INTERRUPTED,
    aeach,
    each,
    ignore_failures,
    ignored,
    omit_exception,
)
from .jitter import Jitter
from .option_values import check_values
from .options import is_compatible, renamed
from .structures import Structures

__all__ = ["CONNECTION_INTERRUPTED", "ConnectionInterrupted", "RedisCache", "omit_exception"]

# Keys in one step of a scan.
_SCAN_ITERSIZE = 1000


class RedisCache(Structures, Computing, BaseCache):
    """A cache in Redis, Valkey, a Cluster, or behind sentinels."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        params = renamed(params)
        super().__init__(params)
        self._server = server
        self._params = params
        options: dict[str, Any] = params.get("OPTIONS") or {}
        self._default_scan_itersize: int = getattr(
            settings, "DJANGO_REDIS_SCAN_ITERSIZE", _SCAN_ITERSIZE
        )
        # Imported at the first use: `manage.py check` reports a wrong path.
        self._client_class: str = options.get(
            "CLIENT_CLASS", "lockstock.django.client.DefaultClient"
        )
        self._own_client: Any = None
        self._is_compatible = is_compatible(options)
        self._jitter = Jitter.of(options)
        self._init_computing(options)
        self._ignore_exceptions: bool = options.get(
            "IGNORE_EXCEPTIONS", getattr(settings, "DJANGO_REDIS_IGNORE_EXCEPTIONS", False)
        )
        self._log_ignored_exceptions: bool = options.get(
            "LOG_IGNORED_EXCEPTIONS",
            getattr(settings, "DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS", False),
        )
        logger = getattr(settings, "DJANGO_REDIS_LOGGER", None) or __name__
        self.logger = logging.getLogger(logger) if self._log_ignored_exceptions else None

    @property
    def client(self) -> Any:
        """The client, made at the first use. It connects when it has to.

        Raises `ImproperlyConfigured` for a wrong option.
        """
        if self._own_client is None:
            check_values(self._params.get("OPTIONS") or {})
            self._own_client = import_string(self._client_class)(self._server, self._params, self)
        return self._own_client

    def get_master_client(self) -> Any:
        """Returns a client of redis-py for the server that accepts writes.

        By the name that packages such as django-defender look for. Requires `lockstock[redis]`.
        """
        return self.client.get_client(True)

    @property
    def _client(self) -> Any:
        """The same client, by the name that django-rq's USE_REDIS_CACHE looks for."""
        return self.get_master_client()

    # --- values -----------------------------------------------------------------------

    def get(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Returns the value under a key, `default` if there is none."""
        # Without the decorator: a copy of the near cache takes a microsecond.
        try:
            return self.client.get(key, default=default, version=version, client=client)
        except ConnectionInterrupted as failure:
            return ignored(self, failure, default)

    async def aget(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Returns the value under a key, `default` if there is none."""
        try:
            return await self.client.aget(key, default=default, version=version, client=client)
        except ConnectionInterrupted as failure:
            return ignored(self, failure, default)

    @ignore_failures(False)
    def set(self, *args: Any, **kwargs: Any) -> Any:
        """Writes a value. Returns whether it was written."""
        if self._jitter is not None:
            args, kwargs = self._jitter.applied(self.default_timeout, args, kwargs)
        return self.client.set(*args, **kwargs)

    @ignore_failures(False)
    async def aset(self, *args: Any, **kwargs: Any) -> Any:
        """Writes a value. Returns whether it was written."""
        if self._jitter is not None:
            args, kwargs = self._jitter.applied(self.default_timeout, args, kwargs)
        return await self.client.aset(*args, **kwargs)

    @ignore_failures(False)
    def add(self, *args: Any, **kwargs: Any) -> Any:
        """Writes a value if there is none. Returns whether it was written."""
        if self._jitter is not None:
            args, kwargs = self._jitter.applied(self.default_timeout, args, kwargs)
        return self.client.add(*args, **kwargs)

    @ignore_failures(False)
    async def aadd(self, *args: Any, **kwargs: Any) -> Any:
        """Writes a value if there is none. Returns whether it was written."""
        if self._jitter is not None:
            args, kwargs = self._jitter.applied(self.default_timeout, args, kwargs)
        return await self.client.aadd(*args, **kwargs)

    @ignore_failures(False)
    def delete(self, *args: Any, **kwargs: Any) -> bool:
        """Removes a value. Returns whether there was one."""
        return bool(self.client.delete(*args, **kwargs))

    @ignore_failures(False)
    async def adelete(self, *args: Any, **kwargs: Any) -> bool:
        """Removes a value. Returns whether there was one."""
        return bool(await self.client.adelete(*args, **kwargs))

    @ignore_failures(False)
    def has_key(self, *args: Any, **kwargs: Any) -> Any:
        """Returns whether there is a value under a key."""
        return self.client.has_key(*args, **kwargs)

    @ignore_failures(False)
    async def ahas_key(self, *args: Any, **kwargs: Any) -> Any:
        """Returns whether there is a value under a key."""
        return await self.client.ahas_key(*args, **kwargs)

    @ignore_failures(False)
    def touch(self, *args: Any, **kwargs: Any) -> Any:
        """Sets when a value expires. Returns whether there is one."""
        return self.client.touch(*args, **kwargs)

    @ignore_failures(False)
    async def atouch(self, *args: Any, **kwargs: Any) -> Any:
        """Sets when a value expires. Returns whether there is one."""
        return await self.client.atouch(*args, **kwargs)

    # --- many values ------------------------------------------------------------------

    @ignore_failures(dict)
    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the values that exist, by key."""
        return self.client.get_many(*args, **kwargs)

    @ignore_failures(dict)
    async def aget_many(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the values that exist, by key."""
        return await self.client.aget_many(*args, **kwargs)

    def set_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Writes several values. Returns the keys that were not written."""
        if self._jitter is not None:
            timeout = self._jitter.shortened(timeout, self.default_timeout)
        return self._unwritten(data, self._set_many(data, timeout, *args, **kwargs))

    @ignore_failures(CONNECTION_INTERRUPTED)
    def _set_many(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.set_many(*args, **kwargs)

    async def aset_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Writes several values. Returns the keys that were not written."""
        if self._jitter is not None:
            timeout = self._jitter.shortened(timeout, self.default_timeout)
        return self._unwritten(data, await self._aset_many(data, timeout, *args, **kwargs))

    @ignore_failures(CONNECTION_INTERRUPTED)
    async def _aset_many(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.aset_many(*args, **kwargs)

    def _unwritten(self, data: dict[Any, Any], result: Any) -> list[Any] | None:
        if self._is_compatible:
            return None
        return list(data) if result is CONNECTION_INTERRUPTED else []

    @ignore_failures(0)
    def delete_many(self, keys: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        """Removes several values. Returns the number of values removed, None without keys."""
        keys = list(keys)
        if not keys:
            return 0 if self._is_compatible else None
        return self.client.delete_many(keys, *args, **kwargs)

    @ignore_failures(0)
    async def adelete_many(self, keys: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        """Removes several values. Returns the number of values removed, None without keys."""
        keys = list(keys)
        if not keys:
            return 0 if self._is_compatible else None
        return await self.client.adelete_many(keys, *args, **kwargs)

    @ignore_failures()
    def clear(self) -> Any:
        """Removes all values: see `DefaultClient.clear`."""
        return self.client.clear()

    @ignore_failures()
    async def aclear(self) -> Any:
        """Removes all values: see `DefaultClient.clear`."""
        return await self.client.aclear()

    # --- integers and versions ------------------------------------------------------------

    @ignore_failures()
    def incr(self, *args: Any, **kwargs: Any) -> Any:
        """Adds to an integer. Raises `ValueError` if there is no value."""
        return self.client.incr(*args, **kwargs)

    @ignore_failures()
    async def aincr(self, *args: Any, **kwargs: Any) -> Any:
        """Adds to an integer. Raises `ValueError` if there is no value."""
        return await self.client.aincr(*args, **kwargs)

    @ignore_failures()
    def decr(self, *args: Any, **kwargs: Any) -> Any:
        """Subtracts from an integer. Raises `ValueError` if there is no value."""
        return self.client.decr(*args, **kwargs)

    @ignore_failures()
    async def adecr(self, *args: Any, **kwargs: Any) -> Any:
        """Subtracts from an integer. Raises `ValueError` if there is no value."""
        return await self.client.adecr(*args, **kwargs)

    @ignore_failures()
    def incr_version(self, *args: Any, **kwargs: Any) -> Any:
        """Moves a value to a higher version. Raises `ValueError` if there is no value."""
        return self.client.incr_version(*args, **kwargs)

    @ignore_failures()
    async def aincr_version(self, *args: Any, **kwargs: Any) -> Any:
        """Moves a value to a higher version. Raises `ValueError` if there is no value."""
        return await self.client.aincr_version(*args, **kwargs)

    # --- patterns -------------------------------------------------------------------------

    @ignore_failures(list)
    def keys(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the keys that match a pattern."""
        return self.client.keys(*args, **kwargs)

    @ignore_failures(list)
    async def akeys(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the keys that match a pattern."""
        return await self.client.akeys(*args, **kwargs)

    def iter_keys(self, *args: Any, **kwargs: Any) -> Any:
        """Yields the keys that match a pattern."""
        return each(self, self.client.iter_keys(*args, **kwargs))

    def aiter_keys(self, *args: Any, **kwargs: Any) -> Any:
        """Yields the keys that match a pattern, for `async for`."""
        return aeach(self, self.client.aiter_keys(*args, **kwargs))

    @ignore_failures(0)
    def delete_pattern(self, *args: Any, **kwargs: Any) -> Any:
        """Removes the values whose keys match a pattern. Returns their number."""
        kwargs.setdefault("itersize", self._default_scan_itersize)
        return self.client.delete_pattern(*args, **kwargs)

    @ignore_failures(0)
    async def adelete_pattern(self, *args: Any, **kwargs: Any) -> Any:
        """Removes the values whose keys match a pattern. Returns their number."""
        return await self.client.adelete_pattern(*args, **kwargs)

    # --- locks ----------------------------------------------------------------------------

    if TYPE_CHECKING:

        def lock(
            self,
            key: Any,
            version: int | None = None,
            timeout: float | None = None,
            sleep: float = 0.1,
            blocking: bool = True,
            blocking_timeout: float | None = None,
            client: Any = None,
            thread_local: bool = True,
            *,
            renew: bool = False,
            raise_on_release_error: bool = True,
        ) -> Lock: ...

        alock = lock

    else:
        # A client class of an application may take other arguments.
        def lock(self, *args: Any, **kwargs: Any) -> Lock:
            """Returns a lock: see `lockstock.Lock`. `IGNORE_EXCEPTIONS` does not apply to it."""
            return self.client.lock(*args, **kwargs)

        def alock(self, *args: Any, **kwargs: Any) -> Lock:
            """Returns the same lock as `lock`, for `async with`."""
            return self.lock(*args, **kwargs)

    @ignore_failures()
    def close(self, **kwargs: Any) -> None:
        """Closes nothing that costs time: see `DefaultClient.close`."""
        if self._own_client is not None:
            self.client.close()

    async def aclose(self, **kwargs: Any) -> None:
        """Closes nothing that costs time."""
        self.close(**kwargs)
