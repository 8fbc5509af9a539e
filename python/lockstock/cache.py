"""Values with a time to live, under the keys of one namespace."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

from . import _core
from .aio import bell_of_loop
from .codec import Codec
from .computing import LEASE_MS, Policy, is_computing, result_of, runs_in_loop
from .computing import acompute as acompute_once
from .computing import compute as compute_once
from .entry import Unusable, payload_of
from .errors import Invalid, Malformed, Unavailable, error

__all__ = ["Cache"]

T = TypeVar("T")
R = TypeVar("R")

# Stands for the time to live of the cache: None means that a value never expires.
_DEFAULT: Any = object()
# A missing value counts as 0 and gets the time to live; a present one keeps its own.
_INCREMENT = """\
local is_missing = redis.call('EXISTS', KEYS[1]) == 0
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
if is_missing and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return total
"""


class _Command(NamedTuple):
    words: tuple[Any, ...]
    read: Callable[[Any], Any]


class Cache(Generic[T]):
    """The values of one namespace and version. Created by `Store.cache`.

    `ttl` is the default time to live in seconds; None never expires. A method `a…` is the same call
    without blocking the event loop. Every method raises `Unavailable` if the store does not reply,
    and those that return values raise `Malformed` if the codec cannot decode one.
    """

    def __init__(
        self,
        store: _core.Store,
        namespace: str,
        codec: Codec[T],
        version: int = 1,
        ttl: float | None = None,
    ) -> None:
        self.namespace = namespace
        self.version = version
        self.ttl_s = ttl
        self._store = store
        self._codec = codec
        # As the Rust crate: without a colon in the namespace.
        escaped = namespace.replace("%", "%25").replace(":", "%3A")
        self._prefix = f"lockstock:cache:{escaped}:{version}:"
        _milliseconds(ttl)

    def __repr__(self) -> str:
        return f"<lockstock.Cache {self.namespace!r}, version {self.version}>"

    # --- one value ------------------------------------------------------------------------

    def get(self, key: str) -> T | None:
        """Returns the value under a key, None if there is none."""
        found: T | None = self._run(self._get(key))
        return found

    async def aget(self, key: str) -> T | None:
        """Returns the value under a key, None if there is none."""
        found: T | None = await self._arun(self._get(key))
        return found

    def set(self, key: str, value: T, ttl: float | None = _DEFAULT) -> None:
        """Writes a value."""
        self._run(self._set(key, value, ttl))

    async def aset(self, key: str, value: T, ttl: float | None = _DEFAULT) -> None:
        """Writes a value."""
        await self._arun(self._set(key, value, ttl))

    def add(self, key: str, value: T, ttl: float | None = _DEFAULT) -> bool:
        """Writes a value if there is none. Returns whether it was written."""
        return bool(self._run(self._set(key, value, ttl, "NX")))

    async def aadd(self, key: str, value: T, ttl: float | None = _DEFAULT) -> bool:
        """Writes a value if there is none. Returns whether it was written."""
        return bool(await self._arun(self._set(key, value, ttl, "NX")))

    def delete(self, key: str) -> bool:
        """Removes a value. Returns whether there was one."""
        return bool(self._run(self._named("UNLINK", key)))

    async def adelete(self, key: str) -> bool:
        """Removes a value. Returns whether there was one."""
        return bool(await self._arun(self._named("UNLINK", key)))

    def incr(self, key: str, by: int = 1, ttl: float | None = _DEFAULT) -> int:
        """Adds to an integer and returns the sum.

        A missing value counts as 0 and gets the time to live; a present one keeps its own. Raises
        `Malformed` if the value is no integer of 64 bits. `by` may have been added if the store
        is unavailable: the call is not repeated.
        """
        total: int = self._run(self._incr(key, by, ttl))
        return total

    async def aincr(self, key: str, by: int = 1, ttl: float | None = _DEFAULT) -> int:
        """Adds to an integer as `incr` does."""
        total: int = await self._arun(self._incr(key, by, ttl))
        return total

    # --- computed values --------------------------------------------------------------------

    def get_or_set(
        self,
        key: str,
        compute: Callable[[], T],
        ttl: float | None = _DEFAULT,
        *,
        stale_for: float = 0,
        once_per_store: bool = True,
        max_wait: float = 30,
    ) -> T:
        """Returns the value under a key. If there is none, computes and writes it.

        One caller computes, on its own thread, and the others wait for its value: of this process,
        and with `once_per_store` of all processes, those of the Rust crate too. If the computation
        raises, its caller gets the exception and another caller computes. If its process is killed,
        another one computes within 5 seconds. A caller that has waited for `max_wait` seconds
        computes itself. A value that another program has written meanwhile is not replaced.

        With `stale_for`, a value is kept for as many seconds after its time to live. Meanwhile one
        caller computes, and all others get the stale value at once; if the computation fails, all
        get it, and the failure is logged. Other programs cannot read such an entry.

        If the store is unavailable, computes the value and does not write it. A computation that
        asks for its own value does not wait for itself, nor does a call in a thread that runs an
        event loop. Two that ask for each other's values in
        different threads wait for `max_wait`.
        """
        try:
            found = self._run(self._get(key))
        except Unavailable:
            return compute()
        if found is not None:
            value: T = found
            return value
        name, policy = self._key(key), self._policy(ttl, stale_for, once_per_store, max_wait)
        if is_computing(self._store, name) or runs_in_loop():
            computed = compute()
            with suppress(Unavailable):
                self.add(key, computed, ttl)
            return computed
        encoded = compute_once(self._store, name, policy, compute, self._codec.encode)
        return self._decode(encoded)

    async def aget_or_set(
        self,
        key: str,
        compute: Callable[[], T | Awaitable[T]],
        ttl: float | None = _DEFAULT,
        *,
        stale_for: float = 0,
        once_per_store: bool = True,
        max_wait: float = 30,
    ) -> T:
        """Returns the value under a key as `get_or_set` does. `compute` may be asynchronous."""
        try:
            found = await self._arun(self._get(key))
        except Unavailable:
            return await result_of(compute)
        if found is not None:
            value: T = found
            return value
        name, policy = self._key(key), self._policy(ttl, stale_for, once_per_store, max_wait)
        if is_computing(self._store, name):
            computed = await result_of(compute)
            with suppress(Unavailable):
                await self.aadd(key, computed, ttl)
            return computed
        encoded = await acompute_once(self._store, name, policy, compute, self._codec.encode)
        return self._decode(encoded)

    # --- expiry -----------------------------------------------------------------------------

    def touch(self, key: str, ttl: float | None = _DEFAULT) -> bool:
        """Sets the time to live of a value. Returns whether there is one."""
        return bool(self._run(self._touch(key, ttl)))

    async def atouch(self, key: str, ttl: float | None = _DEFAULT) -> bool:
        """Sets the time to live of a value. Returns whether there is one."""
        return bool(await self._arun(self._touch(key, ttl)))

    def ttl(self, key: str) -> float | None:
        """Returns for how many seconds a value lives: `math.inf` if it never expires, None if there
        is none."""
        remaining: float | None = self._run(self._named("PTTL", key, _remaining))
        return remaining

    async def attl(self, key: str) -> float | None:
        """Returns for how many seconds a value lives, as `ttl` does."""
        remaining: float | None = await self._arun(self._named("PTTL", key, _remaining))
        return remaining

    # --- many values --------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """Returns the values that exist, by key."""
        names = list(keys)
        return self._found(names, self._store.get_many([self._key(name) for name in names]))

    async def aget_many(self, keys: Iterable[str]) -> dict[str, T]:
        """Returns the values that exist, by key."""
        names = list(keys)
        commands = [("GET", self._key(name)) for name in names]
        return self._found(names, await bell_of_loop().pipeline(self._store, commands))

    def set_many(self, values: Mapping[str, T], ttl: float | None = _DEFAULT) -> None:
        """Writes several values, by commands that are sent together. Not atomic."""
        self._store.pipeline([self._set(*pair, ttl).words for pair in values.items()])

    async def aset_many(self, values: Mapping[str, T], ttl: float | None = _DEFAULT) -> None:
        """Writes several values, by commands that are sent together. Not atomic."""
        commands = [self._set(*pair, ttl).words for pair in values.items()]
        await bell_of_loop().pipeline(self._store, commands)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Removes several values. Returns the number of values removed."""
        return self._store.delete_many([self._key(key) for key in keys])

    async def adelete_many(self, keys: Iterable[str]) -> int:
        """Removes several values. Returns the number of values removed."""
        commands = [("UNLINK", self._key(key)) for key in keys]
        return sum(await bell_of_loop().pipeline(self._store, commands))

    # --- commands -------------------------------------------------------------------------------

    def _run(self, command: _Command) -> Any:
        return command.read(self._store.execute(*command.words))

    async def _arun(self, command: _Command) -> Any:
        reply = await bell_of_loop().execute(self._store, *command.words)
        return command.read(reply)

    def _get(self, key: str) -> _Command:
        return self._named("GET", key, self._decoded)

    def _set(self, key: str, value: T, ttl: float | None, *condition: str) -> _Command:
        words: tuple[Any, ...] = ("SET", self._key(key), self._codec.encode(value))
        milliseconds = self._ttl_ms(ttl)
        if milliseconds is not None:
            words += ("PX", milliseconds)
        return _Command((*words, *condition), _same)

    def _incr(self, key: str, by: int, ttl: float | None) -> _Command:
        milliseconds = self._ttl_ms(ttl)
        limit = "" if milliseconds is None else milliseconds
        return _Command(("EVAL", _INCREMENT, 1, self._key(key), by, limit), _same)

    def _touch(self, key: str, ttl: float | None) -> _Command:
        milliseconds = self._ttl_ms(ttl)
        if milliseconds is None:
            # PERSIST replies 0 for a value that does not expire anyway.
            words = ("EVAL", _PERSIST, 1, self._key(key))
            return _Command(words, _same)
        return _Command(("PEXPIRE", self._key(key), milliseconds), _same)

    def _policy(
        self, ttl: float | None, stale_for: float, once_per_store: bool, max_wait: float
    ) -> Policy:
        lease_ms = LEASE_MS if once_per_store else None
        return Policy(self._ttl_ms(ttl), int(stale_for * 1000), lease_ms, int(max_wait * 1000))

    def _named(self, word: str, key: str, read: Callable[[Any], Any] | None = None) -> _Command:
        return _Command((word, self._key(key)), read or _same)

    def _key(self, key: str) -> str:
        return self._prefix + key

    def _ttl_ms(self, ttl: float | None) -> int | None:
        return _milliseconds(self.ttl_s if ttl is _DEFAULT else ttl)

    def _found(self, names: list[str], replies: list[bytes | None]) -> dict[str, T]:
        found = {}
        for name, reply in zip(names, replies, strict=True):
            if reply is not None:
                with suppress(Unusable):
                    found[name] = self._decode(reply)
        return found

    def _decoded(self, reply: bytes | None) -> T | None:
        try:
            return None if reply is None else self._decode(reply)
        except Unusable:
            return None

    def _decode(self, value: bytes) -> T:
        try:
            return self._codec.decode(payload_of(value))
        except Unusable:
            raise
        except Exception as failure:
            message = f"the codec cannot decode a value of the cache {self.namespace!r}: {failure}"
            raise error(Malformed, message) from failure


_PERSIST = "redis.call('PERSIST', KEYS[1]) return redis.call('EXISTS', KEYS[1])"


def _milliseconds(ttl: float | None) -> int | None:
    if ttl is None:
        return None
    milliseconds = int(ttl * 1000)
    if milliseconds < 1:
        message = f"the time to live must be at least 1 ms, not {ttl} s"
        raise error(Invalid, message)
    return milliseconds


def _remaining(reply: int) -> float | None:
    if reply == -2:
        return None
    return math.inf if reply == -1 else reply / 1000


def _same(reply: R) -> R:
    return reply
