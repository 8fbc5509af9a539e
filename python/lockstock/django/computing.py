"""`get_or_set`: a missing value is computed by one caller for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .. import _core
from ..computing import (
    LEASE_MS,
    MAX_KEY_BYTES,
    MAX_TTL_MS,
    Policy,
    acompute,
    compute,
    is_computing,
    result_of,
    runs_in_loop,
)
from .client.commands import MISSING
from .exceptions import ConnectionInterrupted

__all__ = ["Computing"]


class _Call(NamedTuple):
    """A computation that is shared with other callers."""

    store: _core.Store
    name: str
    policy: Policy


class Computing:
    """The computed values of a backend.

    `OPTIONS["COMPUTE_ONCE"]` is `"store"`, the default: one caller of all processes computes.
    With `"process"`, one in each process does, which takes no lock in Redis. With None, each caller
    computes, as with Django's own backends. `OPTIONS["COMPUTE_WAIT"]` is how many seconds a caller
    waits for another one, 30 by default: after that it computes itself. `OPTIONS["STALE"]` is the
    default of `stale`, 0 seconds.
    """

    # Those of the backend.
    client: Any
    default_timeout: float | None
    logger: Any
    _log_ignored_exceptions: bool
    _jitter: Any

    def _init_computing(self, options: Mapping[str, Any]) -> None:
        # A wrong value raises at the first use of the cache.
        self._scope = options.get("COMPUTE_ONCE", "store")
        self._compute_wait: float = options.get("COMPUTE_WAIT", 30)
        self._stale: float = options.get("STALE", 0)

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
        *,
        stale: float | None = None,
    ) -> Any:
        """Returns the value under a key. If there is none, writes and returns `default`.

        If `default` is a callable, one caller calls it, in its own thread, and the others wait for
        its value: see `Computing` for the options. A hit takes one round trip, as before. If the
        call raises, its caller gets the exception and another caller calls its own `default`; if
        its process is killed, another one does after 5 seconds at most. A value that another client
        writes meanwhile has precedence. In the callable, the same key does not wait for itself;
        nor does a call in a thread that runs an event loop, which could wait for its own task.

        `stale` keeps a value for as many seconds after its timeout. Meanwhile one caller calls
        `default`, and all others get the old value at once; if it raises, all get the old value,
        and the exception is logged. Such an entry has a header: django-redis cannot read it.

        If Redis is unavailable, returns `default` or what it returns, and raises nothing.
        """
        try:
            value = self.client.get(key, default=MISSING, version=version, client=client)
        except ConnectionInterrupted:
            self._log_ignored()
            return default() if callable(default) else default
        if value is not MISSING:
            return value
        if not callable(default) or runs_in_loop():
            return self._add(key, default, timeout, version, client)
        call = self._call_of(key, timeout, version, client, stale)
        if call is None:
            return self._add(key, default, timeout, version, client)
        return self.client.decode(compute(*call, default, self._encoded))

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
        *,
        stale: float | None = None,
    ) -> Any:
        """Returns the value under a key as `get_or_set` does.

        `default` may be an asynchronous callable.
        """
        try:
            value = await self.client.aget(key, default=MISSING, version=version, client=client)
        except ConnectionInterrupted:
            self._log_ignored()
            return await _aresult_of(default)
        if value is not MISSING:
            return value
        call = None
        if callable(default):
            call = self._call_of(key, timeout, version, client, stale)
        if call is None:
            value = await _aresult_of(default)
            try:
                await self.client.aadd(key, value, self._shortened(timeout), version, client)
                return await self.client.aget(key, value, version, client)
            except ConnectionInterrupted:
                self._log_ignored()
                return value
        return self.client.decode(await acompute(*call, default, self._encoded))

    def _call_of(
        self, key: Any, timeout: Any, version: Any, client: Any, stale: float | None
    ) -> _Call | None:
        """Returns the call, None if the value is not shared."""
        if not self._scope or client is not None or not self.client.shares_computations:
            return None
        seconds = self._shortened(timeout)
        ttl_ms = None if seconds is None else int(seconds * 1000)
        stale_ms = int((self._stale if stale is None else stale) * 1000)
        if ttl_ms is not None and not 0 < ttl_ms <= MAX_TTL_MS - stale_ms:
            return None
        name = self.client.make_key(key, version=version)
        if len(str(name).encode()) > MAX_KEY_BYTES:
            return None
        store = self.client._target(name, is_write=True)
        if is_computing(store, name):
            return None
        lease_ms = LEASE_MS if self._scope == "store" else None
        policy = Policy(ttl_ms, stale_ms, lease_ms, int(self._compute_wait * 1000))
        return _Call(store, name, policy)

    def _add(self, key: Any, default: Any, timeout: Any, version: Any, client: Any) -> Any:
        value = default() if callable(default) else default
        try:
            self.client.add(key, value, self._shortened(timeout), version=version, client=client)
            # Another caller may have been faster.
            return self.client.get(key, default=value, version=version, client=client)
        except ConnectionInterrupted:
            self._log_ignored()
            return value

    def _shortened(self, timeout: Any) -> Any:
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return timeout if self._jitter is None else self._jitter.shortened(timeout, None)

    def _encoded(self, value: Any) -> bytes:
        encoded = self.client.encode(value)
        return b"%d" % encoded if isinstance(encoded, int) else encoded

    def _log_ignored(self) -> None:
        if self._log_ignored_exceptions:
            self.logger.exception("Exception ignored")


async def _aresult_of(default: Any) -> Any:
    return await result_of(default if callable(default) else lambda: default)
