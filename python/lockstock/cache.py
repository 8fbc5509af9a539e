"""Values with a time to live, under the keys of one namespace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from . import _core
from .aio import bell_of_loop
from .codec import Codec
from .errors import Invalid, Malformed, error

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
        return self._found(names, await bell_of_loop().run(self._store.begin_pipeline, commands))

    def set_many(self, values: Mapping[str, T], ttl: float | None = _DEFAULT) -> None:
        """Writes several values, by commands that are sent together. Not atomic."""
        self._store.pipeline([self._set(*pair, ttl).words for pair in values.items()])

    async def aset_many(self, values: Mapping[str, T], ttl: float | None = _DEFAULT) -> None:
        """Writes several values, by commands that are sent together. Not atomic."""
        commands = [self._set(*pair, ttl).words for pair in values.items()]
        await bell_of_loop().run(self._store.begin_pipeline, commands)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Removes several values. Returns the number of values removed."""
        return self._store.delete_many([self._key(key) for key in keys])

    async def adelete_many(self, keys: Iterable[str]) -> int:
        """Removes several values. Returns the number of values removed."""
        commands = [("UNLINK", self._key(key)) for key in keys]
        return sum(await bell_of_loop().run(self._store.begin_pipeline, commands))

    # --- commands -------------------------------------------------------------------------------

    def _run(self, command: _Command) -> Any:
        return command.read(self._store.execute(*command.words))

    async def _arun(self, command: _Command) -> Any:
        reply = await bell_of_loop().run(self._store.begin_execute, *command.words)
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

    def _named(self, word: str, key: str, read: Callable[[Any], Any] | None = None) -> _Command:
        return _Command((word, self._key(key)), read or _same)

    def _key(self, key: str) -> str:
        return self._prefix + key

    def _ttl_ms(self, ttl: float | None) -> int | None:
        return _milliseconds(self.ttl_s if ttl is _DEFAULT else ttl)

    def _found(self, names: list[str], replies: list[bytes | None]) -> dict[str, T]:
        pairs = zip(names, replies, strict=True)
        return {name: self._decode(reply) for name, reply in pairs if reply is not None}

    def _decoded(self, reply: bytes | None) -> T | None:
        return None if reply is None else self._decode(reply)

    def _decode(self, value: bytes) -> T:
        try:
            return self._codec.decode(value)
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
