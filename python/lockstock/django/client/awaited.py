"""Methods of several commands, for `await`: those of `DefaultClient` with `a` before the name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ... import _core
from ...aio import bell_of_loop
from ..exceptions import ConnectionInterrupted
from ..util import CacheKey, glob_escape
from .commands import MISSING, Command, CommandBuilder

__all__ = ["AwaitedMethods"]

# Keys that are deleted by one pipeline.
_DELETED_AT_ONCE = 1000


class AwaitedMethods(CommandBuilder):
    """The asynchronous methods of a client that are more than one command."""

    if TYPE_CHECKING:
        # Those of `DefaultClient`.
        def __getattr__(self, name: str) -> Any: ...

    # --- integers and versions --------------------------------------------------------------

    async def aincr(
        self,
        key: Any,
        delta: int = 1,
        version: int | None = None,
        client: Any = None,
        ignore_key_check: bool = False,
    ) -> int:
        """Adds `delta` to an integer and returns the sum: see `incr`."""
        name = self.make_key(key, version=version)
        try:
            total = await self._aexecute(self._incr(name, delta, ignore_key_check), client)
        except ConnectionInterrupted as failure:
            if not self._is_no_integer(failure):
                raise
            # No integer of 64 bits: added here, which is not atomic.
            return await self._aincr_serialized(name, delta, client)
        return self._incremented(key, total)  # type: ignore[no-any-return]

    async def _aincr_serialized(self, name: Any, delta: int, client: Any) -> int:
        remaining = await self._aexecute(Command(("PTTL", name), int, False), client)
        value = await self.aget(name, MISSING, client=client)
        if remaining == -2 or value is MISSING:
            message = f"Key '{name!r}' not found"
            raise ValueError(message)
        timeout = None if remaining < 0 else remaining / 1000
        await self.aset(name, value + delta, timeout=timeout, client=client)
        return value + delta  # type: ignore[no-any-return]

    async def adecr(
        self, key: Any, delta: int = 1, version: int | None = None, client: Any = None
    ) -> int:
        """Subtracts `delta` from an integer: see `incr`."""
        return await self.aincr(key, -delta, version=version, client=client)

    async def aincr_version(
        self, key: Any, delta: int = 1, version: int | None = None, client: Any = None
    ) -> int:
        """Moves a value to a higher version. Returns that version."""
        if version is None:
            version = self._backend.version
        old = self.make_key(key, version)
        value = await self.aget(old, MISSING, client=client)
        remaining = await self.apttl(old, client=client)
        if value is MISSING or (value is None and self._is_compatible):
            message = f"Key '{key!r}' not found"
            raise ValueError(message)
        bare = key.original_key() if isinstance(key, CacheKey) else key
        new = self.make_key(bare, version=version + delta)
        timeout = None if remaining is None else remaining / 1000
        await self.aset(new, value, timeout=timeout, client=client)
        await self.adelete(old, client=client)
        return version + delta

    # --- patterns -----------------------------------------------------------------------------

    async def aiter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> AsyncIterator[str]:
        """Yields the keys that match a pattern."""
        pattern = self.make_pattern(search, version=version)
        for key in await self._ascan(self._target(pattern, is_write=False), pattern):
            yield self.reverse_key(key.decode())

    async def akeys(self, search: str, version: int | None = None) -> list[str]:
        """Returns the keys that match a pattern."""
        return [key async for key in self.aiter_keys(search, version=version)]

    async def adelete_pattern(
        self,
        pattern: str,
        version: int | None = None,
        prefix: str | None = None,
        itersize: int | None = None,
    ) -> int:
        """Removes the values whose keys match a pattern. Returns the number of keys found."""
        name = self.make_pattern(pattern, version=version, prefix=prefix)
        return await self._adelete_scanned(self._target(name, is_write=True), name)

    async def _adelete_scanned(self, store: _core.Store, pattern: str) -> int:
        names = await self._ascan(store, pattern)
        for start in range(0, len(names), _DELETED_AT_ONCE):
            unlinks = [("UNLINK", name) for name in names[start : start + _DELETED_AT_ONCE]]
            await self._aguarded(store, bell_of_loop().pipeline(store, unlinks))
        return len(names)

    async def _ascan(self, store: _core.Store, pattern: str) -> list[bytes]:
        keys: list[bytes] = await self._aguarded(
            store, bell_of_loop().run(store.begin_scan, pattern)
        )
        return keys

    async def aclear(self) -> None:
        """Removes everything in the database of the cache: see `clear`."""
        await self._aclear_store(self._target("", is_write=True))

    async def _aclear_store(self, store: _core.Store) -> None:
        if self._options.get("CLEAR") == "prefix":
            prefix = glob_escape(self._backend.key_prefix)
            await self._adelete_scanned(store, self._backend.key_func("*", prefix, "*"))
        elif "+cluster:" in self._server[0]:
            # There is no command for all nodes.
            await self._adelete_scanned(store, "*")
        else:
            await self._aguarded(store, bell_of_loop().execute(store, "FLUSHDB"))

    async def asscan(
        self,
        key: Any,
        match: str | None = None,
        count: int | None = 10,
        version: int | None = None,
    ) -> set[Any]:
        """Returns some members of a set: those of the first step of a scan."""
        step = self._sscan_step(self.make_key(key, version), 0, match, count)
        _, members = await self._aexecute(step)
        return {self.decode(member) for member in members}

    async def asscan_iter(
        self,
        key: Any,
        match: str | None = None,
        count: int | None = 10,
        version: int | None = None,
    ) -> AsyncIterator[Any]:
        """Yields the members of a set, from a scan in steps of `count`."""
        name, cursor = self.make_key(key, version), 0
        while True:
            step = self._sscan_step(name, cursor, match, count)
            cursor, members = await self._aexecute(step)
            for member in members:
                yield self.decode(member)
            if cursor == 0:
                return
