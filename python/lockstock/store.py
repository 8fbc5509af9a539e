"""A store of locks and values: Redis, Valkey, a Cluster, or a service behind sentinels."""

from __future__ import annotations

from . import _core
from .aio import bell_of_loop
from .lock import Lock
from .multi import MultiLock
from .tracing import trace_if_wanted

# Not from typing, whose import takes as long as that of all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeVar

    from .cache import Cache
    from .codec import Codec
    from .lock import Kind

    T = TypeVar("T")

__all__ = ["Store"]


class Store:
    """A store at a URL. Make one for a process: threads, event loops and children share it.

    `redis://host:6379/1`, `rediss://…`, `redis+unix:///path?db=1`,
    `redis+sentinel://host,host/service/1` or `redis+cluster://host,host`. Connects at the first
    call. `timeout` is in seconds, and bounds each command with the time to connect; a wait for a
    lock has its own limit. `username` and `password` have precedence over those of the URL.
    `ca_certs`, `certfile` and `keyfile` name files in PEM, for `rediss://`.

    Raises `lockstock.errors.Invalid` for a malformed URL.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 1.0,
        username: str | None = None,
        password: str | None = None,
        ca_certs: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
    ) -> None:
        self._native = _core.Store(
            url,
            timeout=timeout,
            username=username,
            password=password,
            ca_certs=ca_certs,
            certfile=certfile,
            keyfile=keyfile,
        )
        trace_if_wanted(self._native, url)

    # --- locks ----------------------------------------------------------------------------

    def lock(
        self,
        name: str | bytes,
        timeout: float | None = None,
        *,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        renew: bool = False,
    ) -> Lock:
        """Returns a lock that one client holds at a time: see `Lock`. Acquires nothing yet.

        `timeout` is the lease and `blocking_timeout` the longest wait, in seconds.
        """
        return self._lock("lock", name, timeout, blocking, blocking_timeout, thread_local, renew, 1)

    def semaphore(
        self,
        name: str | bytes,
        permits: int,
        timeout: float | None = None,
        *,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        renew: bool = False,
    ) -> Lock:
        """Returns a lock that as many clients hold at a time as there are permits.

        The other arguments are those of `lock`; times are in seconds.
        """
        return self._lock(
            "semaphore", name, timeout, blocking, blocking_timeout, thread_local, renew, permits
        )

    def read_lock(
        self,
        name: str | bytes,
        timeout: float | None = None,
        *,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        renew: bool = False,
    ) -> Lock:
        """Returns a lock that excludes holders of the write lock of the same name.

        The other arguments are those of `lock`; times are in seconds.
        """
        return self._lock("read", name, timeout, blocking, blocking_timeout, thread_local, renew, 1)

    def write_lock(
        self,
        name: str | bytes,
        timeout: float | None = None,
        *,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        renew: bool = False,
    ) -> Lock:
        """Returns a lock that excludes all holders of read and write locks of the same name.

        The other arguments are those of `lock`; times are in seconds.
        """
        return self._lock(
            "write", name, timeout, blocking, blocking_timeout, thread_local, renew, 1
        )

    def lock_all(
        self,
        names: Iterable[str | bytes],
        timeout: float | None = None,
        *,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        renew: bool = False,
    ) -> MultiLock:
        """Returns the locks of several names, which are acquired together: see `MultiLock`.

        The other arguments are those of `lock`; times are in seconds.
        """
        return MultiLock(
            self._native,
            names,
            timeout=timeout,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            renew=renew,
        )

    def _lock(
        self,
        kind: Kind,
        name: str | bytes,
        timeout: float | None,
        blocking: bool,
        blocking_timeout: float | None,
        thread_local: bool,
        renew: bool,
        permits: int,
    ) -> Lock:
        return Lock(
            self._native,
            name,
            timeout=timeout,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            renew=renew,
            kind=kind,
            permits=permits,
        )

    # --- values -----------------------------------------------------------------------------

    def cache(
        self, namespace: str, codec: Codec[T], *, version: int = 1, ttl: float | None = None
    ) -> Cache[T]:
        """Returns the cache of a namespace.

        `codec` is JSON, BYTES, PICKLE or one of your own. Raise `version` when the values change
        their form: entries of other versions are not seen. `ttl` is the default time to live in
        seconds; None never expires.
        """
        from .cache import Cache

        return Cache(self._native, namespace, codec, version, ttl)

    # --- commands -----------------------------------------------------------------------------

    def execute(self, *words: str | bytes | int | float) -> Any:
        """Executes a command of Redis: `store.execute("SET", "key", 1)`. Returns its reply.

        Raises `Unavailable` if the store does not reply, `ResponseError` if it rejects the command.
        """
        return self._native.execute(*words)

    async def aexecute(self, *words: str | bytes | int | float) -> Any:
        """Executes a command as `execute` does, without blocking the event loop."""
        return await bell_of_loop().execute(self._native, *words)

    def close_idle(self) -> None:
        """Closes connections that are not in use. The next call opens another."""
        self._native.close_idle()
