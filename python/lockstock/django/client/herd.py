"""The client whose expired values are recomputed by few callers at a time.

Bytes and behaviour are django-redis': a value is stored with the time of its expiry, and stays in
the store for `CACHE_HERD_TIMEOUT` seconds longer. In that time a reader sees it as missing with a
probability that grows. `get_or_set` with a lock needs no such guess: see the documentation.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .._marker import MarkedSerializer, Marker
from .commands import MISSING, Command
from .default import DefaultClient

__all__ = ["HerdClient", "Marker"]


class HerdClient(DefaultClient):
    """A client that writes `(marker, value, expiry)`."""

    # Its own expiry lets few callers compute.
    shares_computations = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._marker = Marker()
        self._herd_timeout: int = getattr(settings, "CACHE_HERD_TIMEOUT", 60)
        super().__init__(*args, **kwargs)
        self._serializers = [MarkedSerializer(each) for each in self._serializers]
        self._serializer = self._serializers[0]

    def _pack(self, value: Any, timeout: float) -> tuple[Marker, Any, float]:
        return self._marker, value, timeout + int(time.time())

    def _unpack(self, value: Any) -> tuple[Any, bool]:
        """Returns a value, and whether the caller should recompute it."""
        try:
            marker, unpacked, expires_at = value
        except (TypeError, ValueError):
            return value, False
        if not isinstance(marker, Marker):
            return value, False
        late = int(time.time()) - expires_at
        if late <= 0:
            return unpacked, False
        is_due = late + random.randint(1, self._herd_timeout) >= self._herd_timeout
        return unpacked, is_due

    def _get(self, key: Any, default: Any = None, version: int | None = None) -> Command:
        command = super()._get(key, MISSING, version)

        def read(reply: Any) -> Any:
            found = command.read(reply)
            if found is MISSING:
                return default
            value, is_due = self._unpack(found)
            return default if is_due else value

        return command._replace(read=read)

    def _set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        nx: bool = False,
        xx: bool = False,
    ) -> Command:
        timeout = self._timeout(timeout)
        if timeout is None or timeout <= 0:
            return super()._set(key, value, timeout, version, nx, xx)
        packed = self._pack(value, timeout)
        return super()._set(key, packed, timeout + self._herd_timeout, version, nx, xx)

    def _get_many(self, keys: Iterable[Any], version: int | None = None) -> Any:
        names, read_all = super()._get_many(keys, version)

        def read(replies: Any) -> dict[Any, Any]:
            found = {}
            for key, packed in read_all(replies).items():
                value, is_due = self._unpack(packed)
                found[key] = None if is_due else value
            return found

        return names, read

    def incr(self, *args: Any, **kwargs: Any) -> int:
        """Fails: a value with an expiry is no integer."""
        raise NotImplementedError

    def decr(self, *args: Any, **kwargs: Any) -> int:
        """Fails: a value with an expiry is no integer."""
        raise NotImplementedError

    async def aincr(self, *args: Any, **kwargs: Any) -> int:
        """Fails: a value with an expiry is no integer."""
        raise NotImplementedError

    async def adecr(self, *args: Any, **kwargs: Any) -> int:
        """Fails: a value with an expiry is no integer."""
        raise NotImplementedError

    def touch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Writes the value again with a new expiry."""
        value = self.get(key, version=version, client=client)
        if value is None:
            return False
        self.set(key, value, timeout=timeout, version=version, client=client)
        return True

    async def atouch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Writes the value again with a new expiry."""
        value = await self.aget(key, version=version)
        if value is None:
            return False
        await self.aset(key, value, timeout=timeout, version=version)
        return True
