"""A missing value is computed by one caller for all, in this process and in all others.

The caller that computes holds a lock of the store, which is renewed meanwhile. The others wait for
the value, or get the stale one. The lock, the entry and the waits are those of the Rust crate, so
processes of both languages share a computation. It runs on the thread, greenlet or task of its
caller. If it fails, or its process is killed, another caller computes.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from . import _core
from .aio import bell_of_loop

__all__ = [
    "LEASE_MS",
    "MAX_KEY_BYTES",
    "MAX_TTL_MS",
    "Policy",
    "acompute",
    "compute",
    "is_computing",
    "result_of",
    "runs_in_loop",
]

T = TypeVar("T")

# The longest time to live together with the stale time that the Rust crate accepts.
MAX_TTL_MS = 366 * 24 * 3600 * 1000
# The longest key of a computed value that the Rust crate accepts.
MAX_KEY_BYTES = 64 * 1024
# After this time another process computes if the one that does is killed. It is renewed meanwhile.
LEASE_MS = 5000


class Policy(NamedTuple):
    """How a value is computed and kept."""

    # None never expires.
    ttl_ms: int | None
    # How long a value is kept after its time to live, for other callers while one computes.
    stale_ms: int = 0
    # None: one caller in each process.
    lease_ms: int | None = LEASE_MS
    # How long a caller waits for another one. After that it computes itself.
    max_wait_ms: int = 30_000


# The keys whose values are computed by the present task, or by one that has started it.
_computing: ContextVar[frozenset[tuple[_core.Store, str]]] = ContextVar(
    "lockstock.computing", default=frozenset()
)


def is_computing(store: _core.Store, key: str) -> bool:
    """Returns whether this call is part of the computation of the same value.

    It must not wait for itself.
    """
    return (store, str(key)) in _computing.get()


def runs_in_loop() -> bool:
    """Returns whether this thread runs an event loop, which a wait would block.

    The caller that computes may be a task of it.
    """
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def compute(
    store: _core.Store,
    key: str,
    policy: Policy,
    function: Callable[[], Any],
    encode: Callable[[Any], bytes],
) -> bytes:
    """Returns the bytes of the value under a key, or those of what `function` returns.

    Raises what `function` raises, unless there is a stale value.
    """
    computation = store.compute(key, *policy)
    try:
        found = computation.wait()
        if found is not None:
            return found
        outer = _computing.set(_computing.get() | {(store, str(key))})
        try:
            value = function()
        except Exception as failure:
            found = computation.fail()
            if found is None:
                raise
            _report(failure)
            return found
        finally:
            _computing.reset(outer)
        return computation.finish(encode(value))
    finally:
        # After an exception. The traceback may keep this frame for a while.
        computation.abandon()


async def acompute(
    store: _core.Store,
    key: str,
    policy: Policy,
    function: Callable[[], Any],
    encode: Callable[[Any], bytes],
) -> bytes:
    """Returns what `compute` does, for a function that may return an awaitable."""
    bell, computation = bell_of_loop(), store.compute(key, *policy)
    try:
        found: bytes | None = await bell.run(computation.begin_wait)
        if found is not None:
            return found
        outer = _computing.set(_computing.get() | {(store, str(key))})
        try:
            value = await result_of(function)
        except Exception as failure:
            found = await bell.run(computation.begin_fail)
            if found is None:
                raise
            _report(failure)
            return found
        finally:
            _computing.reset(outer)
        encoded: bytes = await bell.run(computation.begin_finish, encode(value))
        return encoded
    finally:
        computation.abandon()


async def result_of(function: Callable[[], T | Awaitable[T]]) -> T:
    """Returns what a function returns, or what its awaitable does."""
    value = function()
    return await value if isinstance(value, Awaitable) else value


def _report(failure: Exception) -> None:
    import logging

    logger = logging.getLogger(__name__)
    logger.warning("a computation failed, the last value is returned", exc_info=failure)
