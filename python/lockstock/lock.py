"""A lock with the methods of redis-py's `Lock`, and what they lack.

A waiter is woken by a push message, in order of arrival. `fence` is a number that grows with each
acquisition, for the database to compare. `lost` is true as soon as the lock may be held by
another client. `keep()` holds the lock to the end of its lease, as a cool-down: other callers that
cannot have it in time fail at once.

Times are in seconds.
"""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

from .aio import bell_of_loop
from .errors import Error, Invalid, LockError, LockNotOwnedError, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, Literal, TypeVar

    from . import _core

    Kind = Literal["lock", "semaphore", "read", "write", "all"]
    L = TypeVar("L", bound="Lock")

__all__ = ["Lock"]

# The lease of a lock without a timeout, in ms. It is renewed while the process lives.
_ENDLESS_LEASE_MS = 30_000
_MAX_LEASE_S = 24 * 3600
# A longer wait has no limit: years.
_MAX_WAIT_S = 1e9
_MAX_RENEWAL_MS = 366 * 24 * 3600 * 1000
_HEX_DIGITS = frozenset("0123456789abcdef")
_NOT_RELEASED = "Cannot release a lock that's not owned or is already unlocked"


class Lock:
    """A lock under one name. Create it with `Store.lock` or `cache.lock`.

    `timeout` is the lease: how long the lock is held at most, from 1 ms to 24 h. Without one, the
    lease is 30 s and is renewed until the lock is released or the process ends, and a warning is
    given once.
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
        if timeout is not None and not 0 <= timeout <= _MAX_LEASE_S:
            message = f"the timeout of a lock must be from 0 to {_MAX_LEASE_S} s, not {timeout}"
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
        does not reply: the lock was not acquired then. Raises `LockError` if this object holds the
        lock already, and `Invalid` if the timeout or the name is out of range.

        `token` becomes the token of the holder, with which another process can release the lock:
        32 hexadecimal digits in lower case, as of `uuid4().hex`. No two acquisitions may have the
        same. It takes one round trip more. Without it, each acquisition has a new token.
        """
        request = self._request(blocking, blocking_timeout, token)
        return self._acquired(self._call("acquire", self.store.acquire, *request))

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
        return self._acquired(await self._acall("acquire", self.store.begin_acquire, *request))

    def _request(
        self, blocking: bool | None, blocking_timeout: float | None, token: str | bytes | None
    ) -> tuple[Any, ...]:
        held = self._held
        if held is not None and not held.lost:
            message = "Cannot acquire a lock that this object already holds in this thread"
            raise error(LockError, message, lock_name=self.name)
        if token is not None:
            token = self._checked(token)
        if blocking is None:
            blocking = self.blocking
        if blocking_timeout is None:
            blocking_timeout = self.blocking_timeout
        wait_ms: int | None
        if not blocking:
            wait_ms = 0
        elif blocking_timeout is None or blocking_timeout > _MAX_WAIT_S:
            wait_ms = None
        else:
            wait_ms = max(0, int(blocking_timeout * 1000))
        renew_ms: int | None = _MAX_RENEWAL_MS if self._renew else None
        if not self.timeout:
            _warn_of_endless_lock(self.name)
            lease_ms, renew_ms = _ENDLESS_LEASE_MS, _MAX_RENEWAL_MS
        else:
            lease_ms = max(1, int(self.timeout * 1000))
        return (self.name, lease_ms, wait_ms, renew_ms, self._kind, self._permits, token)

    def _checked(self, token: str | bytes) -> str:
        if self._kind != "lock":
            message = "only the holder of a lock under one name has a token that can be chosen"
            raise error(Invalid, message)
        text = token.decode("latin-1") if isinstance(token, bytes) else token
        if len(text) != 32 or not set(text) <= _HEX_DIGITS:
            message = (
                "the token of a lock must have 32 hexadecimal digits in lower case, as uuid4().hex"
            )
            raise error(Invalid, message)
        return text

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
            if self._given_token is not None:
                message += ": with the token of another holder, it can only be released"
            elif self.thread_local:
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
        """Returns whether any client holds the lock. Raises `Unavailable` without a reply."""
        return any(self.store.holders(self._kind, name) for name in self._names)

    async def alocked(self) -> bool:
        """Returns what `locked` does, without blocking the event loop."""
        for name in self._names:
            if await bell_of_loop().run(self.store.begin_holders, self._kind, name):
                return True
        return False

    def owned(self) -> bool:
        """Returns whether this object holds the lock. Raises `Unavailable` without a reply."""
        return bool(self._claims) and all(
            token in self.store.holders(self._kind, name) for name, token in self._claims
        )

    async def aowned(self) -> bool:
        """Returns what `owned` does, without blocking the event loop."""
        for name, token in self._claims:
            holders = await bell_of_loop().run(self.store.begin_holders, self._kind, name)
            if token not in holders:
                return False
        return bool(self._claims)

    @property
    def _claims(self) -> list[tuple[str | bytes, str]]:
        """The names and tokens under which this object holds the lock."""
        if (held := self._held) is not None:
            return [(name, token) for name, token, _ in held.claims]
        token = self._given_token
        return [] if token is None else [(self.name, token)]

    @property
    def _given_token(self) -> str | None:
        """The token that the application has put into `local.token`."""
        token = None if self._held is not None else getattr(self.local, "token", None)
        return None if token is None else self._checked(token)

    @property
    def _names(self) -> Sequence[str | bytes]:
        return (self.name,)

    # --- release, keep, renew -------------------------------------------------------

    def release(self) -> None:
        """Releases the lock, and hands it to the next waiter.

        Raises `LockError` if it is not held, `LockNotOwnedError` if it was lost. To release what
        another process has acquired, set `local.token` to its token first. After a release inside
        a `with` block, its end does nothing.
        """
        claim = self._held or self._given_token or self._require(_NOT_RELEASED)
        self._forget()
        if isinstance(claim, str):
            is_released = self._call("release", self.store.release, self._kind, self.name, claim)
        else:
            is_released = self._call("release", claim.release)
        if not is_released:
            raise self._not_owned("release")

    async def arelease(self) -> None:
        """Releases the lock as `release` does, without blocking the event loop."""
        claim = self._held or self._given_token or self._require(_NOT_RELEASED)
        self._forget()
        if isinstance(claim, str):
            begin, arguments = self.store.begin_release, (self._kind, self.name, claim)
            is_released = await self._acall("release", begin, *arguments)
        else:
            is_released = await self._acall("release", claim.begin_release)
        if not is_released:
            raise self._not_owned("release")

    def keep(self) -> None:
        """Leaves the lock held to the end of its lease, as a cool-down.

        Raises `LockError` if it is not held, `LockNotOwnedError` if it was lost.
        """
        held = self._require("Cannot keep a lock that is not held")
        self._forget()
        if not self._call("keep", held.keep):
            raise self._not_owned("keep")

    async def akeep(self) -> None:
        """Keeps the lock as `keep` does, without blocking the event loop."""
        held = self._require("Cannot keep a lock that is not held")
        self._forget()
        if not await self._acall("keep", held.begin_keep):
            raise self._not_owned("keep")

    def extend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """Adds seconds to the lease, or with `replace_ttl` sets what remains of it.

        Both can make the lease shorter: `extend(-5)`, `extend(1, replace_ttl=True)`. A lock that is
        renewed in the background has its full lease again at the next renewal, which comes before
        a shorter one ends. Raises `LockNotOwnedError` if the lock was lost, `Invalid` if less than
        1 ms or more than 24 h would remain.
        """
        held, is_added, ms = self._extension(additional_time, replace_ttl)
        if not self._call("extend", held.extend if is_added else held.set_remaining, ms):
            raise self._not_owned("extend")
        return True

    async def aextend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """Extends the lease as `extend` does, without blocking the event loop."""
        held, is_added, ms = self._extension(additional_time, replace_ttl)
        begin = held.begin_extend if is_added else held.begin_set_remaining
        if not await self._acall("extend", begin, ms):
            raise self._not_owned("extend")
        return True

    def _extension(self, additional_time: float, replace_ttl: bool) -> tuple[_core.Held, bool, int]:
        """Returns the lock, whether to add to its lease, and by or to how many milliseconds."""
        held = self._require("Cannot extend an unlocked lock")
        if not self.timeout:
            message = "Cannot extend a lock with no timeout"
            raise error(LockError, message, lock_name=self.name)
        if not abs(additional_time) <= _MAX_LEASE_S:
            message = (
                f"a lease is at most {_MAX_LEASE_S} s, not {additional_time} s longer or shorter"
            )
            raise error(Invalid, message)
        ms = int(additional_time * 1000)
        if not replace_ttl and ms >= 0:
            return held, True, ms
        rest_ms = int(held.remaining() * 1000)
        if not replace_ttl and rest_ms:
            ms += rest_ms
        if ms < 1:
            message = "the lease would have ended: release the lock instead"
            raise error(Invalid, message)
        return held, False, ms

    def reacquire(self) -> bool:
        """Sets what remains of the lease to `timeout` again.

        Raises `LockNotOwnedError` if the lock was lost.
        """
        if not self._call("extend", self._reacquisition().renew):
            raise self._not_owned("reacquire")
        return True

    async def areacquire(self) -> bool:
        """Starts the lease again as `reacquire` does, without blocking the event loop."""
        if not await self._acall("extend", self._reacquisition().begin_renew):
            raise self._not_owned("reacquire")
        return True

    def _reacquisition(self) -> _core.Held:
        held = self._require("Cannot reacquire an unlocked lock")
        if not self.timeout:
            message = "Cannot reacquire a lock with no timeout"
            raise error(LockError, message, lock_name=self.name)
        return held

    def _call(self, verb: str, call: Callable[..., Any], *args: Any) -> Any:
        tracer = self.store.tracer
        if tracer is None:
            return call(*args)
        with tracer.of_lock(verb, self.name):
            return call(*args)

    async def _acall(self, verb: str, begin: Callable[..., None], *args: Any) -> Any:
        tracer = self.store.tracer
        if tracer is None:
            return await bell_of_loop().run(begin, *args)
        with tracer.of_lock(verb, self.name):
            return await bell_of_loop().run(begin, *args)

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
            stacklevel=_level_of_caller(),
        )


def _level_of_caller() -> int:
    """Returns the level of the first frame outside of this package, as `warnings.warn` counts."""
    level, frame = 1, sys._getframe(1)
    package = __name__.rpartition(".")[0] + "."
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        level, frame = level + 1, frame.f_back
    return level
