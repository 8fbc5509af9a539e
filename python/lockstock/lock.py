"""A lock with the methods of redis-py's `Lock`, and what they lack.

A waiter is woken by a push message, in order of arrival. `fence` is a number that grows with each
acquisition, for the database to compare. `lost` is true as soon as the lock may be held by
another client. `keep()` holds the lock to the end of its lease, as a cool-down: other callers that
cannot have it in time fail at once.

Times are in seconds.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace

from .aio import bell_of_loop
from .errors import Error, Invalid, LockError, LockNotOwnedError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Literal, TypeVar

    from . import _core

    Kind = Literal["lock", "semaphore", "read", "write", "all"]
    L = TypeVar("L", bound="Lock")

__all__ = ["Lock"]

# The lease of a lock without a timeout, in ms. It is renewed while the process lives.
_ENDLESS_LEASE_MS = 30_000
_MAX_RENEWAL_MS = 366 * 24 * 3600 * 1000


class Lock:
    """A lock under one name. Create it with `Store.lock` or `cache.lock`.

    `timeout` is the lease: how long the lock is held at most. Without one, the lease is 30 s and
    is renewed until the lock is released or the process ends, and a warning is given once.
    `blocking_timeout` is how long `acquire` waits; without one, it waits without end. `sleep` has
    no effect, because a waiter does not poll. With `thread_local`, a thread cannot release what
    another thread acquired through the same object. Without `raise_on_release_error`, a `with`
    block whose lock was lost logs a warning instead of raising `LockNotOwnedError`. With `renew`,
    the lease is renewed in the background until the lock is released.

    A lock that is not released stays held to the end of its lease, also if this object is
    collected. Then it is kept: other callers that cannot have it in time fail at once.
    """

    def __init__(
        self,
        store: _core.Store,
        name: str | bytes,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
        raise_on_release_error: bool = True,
        *,
        renew: bool = False,
        kind: Kind = "lock",
        permits: int = 1,
    ) -> None:
        if timeout is not None and timeout < 0:
            message = "the timeout of a lock must not be negative"
            raise error(Invalid, message)
        self.store = store
        self.name = name
        self.timeout = timeout
        self.sleep = sleep
        self.blocking = blocking
        self.blocking_timeout = blocking_timeout
        self.thread_local = bool(thread_local)
        self.raise_on_release_error = raise_on_release_error
        self._renew = renew
        self._kind = kind
        self._permits = permits
        # Imported here, because its import takes longer than all the rest.
        import threading

        self.local: Any = threading.local() if thread_local else SimpleNamespace()
        self.local.token = None
        self.local.held = None

    def __repr__(self) -> str:
        state = "held" if self._held is not None else "not held"
        return f"<lockstock.Lock {self.name!r}: {state}>"

    # --- acquire ----------------------------------------------------------------

    def acquire(
        self,
        sleep: float | None = None,
        blocking: bool | None = None,
        blocking_timeout: float | None = None,
        token: str | bytes | None = None,
    ) -> bool:
        """Acquires the lock. Returns whether it is held now.

        Waits at most `blocking_timeout` seconds, not at all if `blocking` is false. If the lock
        is kept for longer than the wait, returns false at once. Raises `Unavailable` if the store
        does not reply: the lock was not acquired then.
        """
        request = self._request(blocking, blocking_timeout, token)
        return self._acquired(self.store.acquire(*request))

    async def aacquire(
        self,
        sleep: float | None = None,
        blocking: bool | None = None,
        blocking_timeout: float | None = None,
        token: str | bytes | None = None,
    ) -> bool:
        """Acquires the lock as `acquire` does, without blocking the event loop.

        If the task is cancelled, the request leaves the queue, and a lock that was granted
        meanwhile is released.
        """
        request = self._request(blocking, blocking_timeout, token)
        return self._acquired(await bell_of_loop().run(self.store.begin_acquire, *request))

    def _request(
        self, blocking: bool | None, blocking_timeout: float | None, token: str | bytes | None
    ) -> tuple[Any, ...]:
        if self._held is not None and not self._held.lost:
            message = "Cannot acquire a lock that this object already holds in this thread"
            raise error(LockError, message, lock_name=self.name)
        if token is not None:
            message = "the token of a lock cannot be chosen: read it from local.token"
            raise error(Invalid, message)
        if blocking is None:
            blocking = self.blocking
        if blocking_timeout is None:
            blocking_timeout = self.blocking_timeout
        wait_ms: int | None
        if not blocking:
            wait_ms = 0
        elif blocking_timeout is None:
            wait_ms = None
        else:
            wait_ms = max(0, int(blocking_timeout * 1000))
        renew_ms: int | None = _MAX_RENEWAL_MS if self._renew else None
        if not self.timeout:
            _warn_of_endless_lock(self.name)
            lease_ms, renew_ms = _ENDLESS_LEASE_MS, _MAX_RENEWAL_MS
        else:
            lease_ms = max(1, int(self.timeout * 1000))
        return (self.name, lease_ms, wait_ms, renew_ms, self._kind, self._permits)

    def _acquired(self, held: _core.Held | None) -> bool:
        if held is None:
            return False
        # As with redis-py: only a release ends it early.
        held.stay_held(not self.timeout)
        self.local.held = held
        self.local.token = held.token
        return True

    # --- what is held -------------------------------------------------------------

    @property
    def _held(self) -> _core.Held | None:
        return getattr(self.local, "held", None)

    def _require(self, message: str) -> _core.Held:
        held = self._held
        if held is None:
            if self.thread_local:
                message += " by this thread"
            raise error(LockError, message, lock_name=self.name)
        return held

    @property
    def fence(self) -> int:
        """The number of this acquisition. Each later one of any lock has a higher number.

        Compare it in the statement that writes: `UPDATE … WHERE id = %s AND fence < %s`.
        """
        return self._require("Cannot read the fence of a lock that is not held").fence

    @property
    def deadline(self) -> float:
        """When the lease ends, as `time.monotonic()` counts."""
        return self._require("Cannot read the deadline of a lock that is not held").deadline

    def remaining(self) -> float:
        """Returns the seconds until the lease ends, 0 if the lock is not held."""
        held = self._held
        return 0.0 if held is None else held.remaining()

    @property
    def lost(self) -> bool:
        """Whether the lock was acquired and may be held by another client now."""
        held = self._held
        return held is not None and held.lost

    def locked(self) -> bool:
        """Returns whether the lock is held by any client. Asks the store."""
        return any(self.store.holders(self._kind, name) for name in self._names)

    async def alocked(self) -> bool:
        """Returns what `locked` does, without blocking the event loop."""
        for name in self._names:
            if await bell_of_loop().run(self.store.begin_holders, self._kind, name):
                return True
        return False

    def owned(self) -> bool:
        """Returns whether this object still holds the lock. Asks the store."""
        held = self._held
        return held is not None and all(
            token in self.store.holders(self._kind, name) for name, token, _ in held.claims
        )

    async def aowned(self) -> bool:
        """Returns what `owned` does, without blocking the event loop."""
        held = self._held
        if held is None:
            return False
        for name, token, _ in held.claims:
            holders = await bell_of_loop().run(self.store.begin_holders, self._kind, name)
            if token not in holders:
                return False
        return True

    @property
    def _names(self) -> Sequence[str | bytes]:
        return (self.name,)

    # --- release, keep, renew -------------------------------------------------------

    def release(self) -> None:
        """Releases the lock, and hands it to the next waiter.

        Raises `LockError` if it is not held, `LockNotOwnedError` if it was lost.
        """
        held = self._require("Cannot release a lock that's not owned or is already unlocked")
        self._forget()
        if not held.release():
            raise self._not_owned("release")

    async def arelease(self) -> None:
        """Releases the lock as `release` does, without blocking the event loop."""
        held = self._require("Cannot release a lock that's not owned or is already unlocked")
        self._forget()
        if not await bell_of_loop().run(held.begin_release):
            raise self._not_owned("release")

    def keep(self) -> None:
        """Leaves the lock held to the end of its lease, as a cool-down.

        Raises `LockError` if it is not held, `LockNotOwnedError` if it was lost.
        """
        held = self._require("Cannot keep a lock that is not held")
        self._forget()
        if not held.keep():
            raise self._not_owned("keep")

    async def akeep(self) -> None:
        """Keeps the lock as `keep` does, without blocking the event loop."""
        held = self._require("Cannot keep a lock that is not held")
        self._forget()
        if not await bell_of_loop().run(held.begin_keep):
            raise self._not_owned("keep")

    def extend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """Adds seconds to the lease, or with `replace_ttl` sets what remains of it.

        Raises `LockNotOwnedError` if the lock was lost.
        """
        held, by_ms = self._extension(additional_time, replace_ttl)
        if not held.extend(by_ms):
            raise self._not_owned("extend")
        return True

    async def aextend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """Extends the lease as `extend` does, without blocking the event loop."""
        held, by_ms = self._extension(additional_time, replace_ttl)
        if not await bell_of_loop().run(held.begin_extend, by_ms):
            raise self._not_owned("extend")
        return True

    def _extension(self, additional_time: float, replace_ttl: bool) -> tuple[_core.Held, int]:
        held = self._require("Cannot extend an unlocked lock")
        if not self.timeout:
            message = "Cannot extend a lock with no timeout"
            raise error(LockError, message, lock_name=self.name)
        by_ms = int(additional_time * 1000)
        if replace_ttl:
            by_ms -= int(held.remaining() * 1000)
        return held, max(by_ms, 0)

    def reacquire(self) -> bool:
        """Sets what remains of the lease to `timeout` again.

        Raises `LockNotOwnedError` if the lock was lost.
        """
        if not self._reacquisition().renew():
            raise self._not_owned("reacquire")
        return True

    async def areacquire(self) -> bool:
        """Starts the lease again as `reacquire` does, without blocking the event loop."""
        if not await bell_of_loop().run(self._reacquisition().begin_renew):
            raise self._not_owned("reacquire")
        return True

    def _reacquisition(self) -> _core.Held:
        held = self._require("Cannot reacquire an unlocked lock")
        if not self.timeout:
            message = "Cannot reacquire a lock with no timeout"
            raise error(LockError, message, lock_name=self.name)
        return held

    def _forget(self) -> None:
        self.local.held = None
        self.local.token = None

    def _not_owned(self, verb: str) -> Error:
        message = f"Cannot {verb} a lock that's no longer owned"
        return error(LockNotOwnedError, message, lock_name=self.name)

    # --- with -------------------------------------------------------------------------

    def __enter__(self: L) -> L:
        if self.acquire():
            return self
        raise self._not_acquired()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_to_release():
            try:
                self.release()
            except LockError as failure:
                self._report(failure)

    async def __aenter__(self: L) -> L:
        if await self.aacquire():
            return self
        raise self._not_acquired()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_to_release():
            try:
                await self.arelease()
            except LockError as failure:
                self._report(failure)

    def _has_to_release(self) -> bool:
        held = self._held
        # After keep() there is nothing to release, and a child of fork leaves the block of its
        # parent without an effect on the parent's lock.
        if held is not None and held.inherited:
            self._forget()
            return False
        return held is not None

    def _report(self, failure: LockError) -> None:
        if self.raise_on_release_error:
            raise failure
        # Not before it is needed, because the import takes as long as that of this package.
        import logging

        logging.getLogger(__name__).warning("%s: %s", self.name, failure)

    def _not_acquired(self) -> Error:
        message = "Unable to acquire lock within the time specified"
        return error(LockError, message, lock_name=self.name)


_has_warned = False


def _warn_of_endless_lock(name: str | bytes) -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        warnings.warn(
            f"the lock {name!r} has no timeout: its lease of 30 s is renewed until it is released "
            "or this process ends. Set a timeout to bound how long it can be held",
            RuntimeWarning,
            stacklevel=5,
        )
