"""Methods of values whose keys or members are found by a pattern."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

from ... import _core
from ..util import CacheKey, glob_escape
from .coding import Coding
from .commands import Command
from .connections import Connections

__all__ = ["Patterns"]

# Keys that are deleted by one command.
_DELETED_AT_ONCE = 1000


class Patterns(Connections, Coding):
    """Finds and removes values by patterns, and reads sets in steps."""

    def iter_keys(
        self,
        search: str,
        itersize: int | None = None,
        client: Any = None,
        version: int | None = None,
    ) -> Iterator[str]:
        """Yields the keys that match a pattern, from a scan in steps of `itersize`."""
        pattern = self.make_pattern(search, version=version)
        for key in self._scan(pattern, itersize, client):
            yield self.reverse_key(key.decode() if isinstance(key, bytes) else key)

    def _scan(self, pattern: str, itersize: int | None, client: Any) -> Iterator[Any]:
        target = client or self._target(pattern, is_write=False)
        try:
            if isinstance(target, _core.Store):
                yield from target.scan(pattern)
            else:
                yield from target.scan_iter(match=pattern, count=itersize)
        except Exception as failure:
            self._fail(failure, target)

    def keys(self, search: str, version: int | None = None, client: Any = None) -> list[str]:
        """Returns the keys that match a pattern."""
        return list(self.iter_keys(search, client=client, version=version))

    def delete_pattern(
        self,
        pattern: str,
        version: int | None = None,
        prefix: str | None = None,
        client: Any = None,
        itersize: int | None = None,
    ) -> int:
        """Removes the values whose keys match a pattern. Returns the number of keys found."""
        pattern = self.make_pattern(pattern, version=version, prefix=prefix)
        target = client or self._target(pattern, is_write=True)
        count, names = 0, []
        for key in self._scan(pattern, itersize, target):
            names.append(key)
            count += 1
            if len(names) == _DELETED_AT_ONCE:
                self._unlink(target, names)
                names = []
        if names:
            self._unlink(target, names)
        return count

    def _unlink(self, target: Any, names: list[Any]) -> None:
        if isinstance(target, _core.Store):
            self._guarded(target, target.delete_many, names)
        else:
            self._guarded(target, target.unlink, *names)

    def clear(self, client: Any = None) -> None:
        """Removes everything in the database of the cache, also what other programs wrote there.

        With `OPTIONS["CLEAR"] = "prefix"`, only the keys of this cache's prefix, of all versions.
        """
        if self._options.get("CLEAR") == "prefix":
            prefix = glob_escape(self._backend.key_prefix)
            self._clear_pattern(CacheKey(self._backend.key_func("*", prefix, "*")), client)
            return
        target = client or self._target("", is_write=True)
        if isinstance(target, _core.Store):
            self._guarded(target, self._flush, target)
        else:
            self._guarded(target, target.flushdb)

    def _flush(self, store: _core.Store) -> None:
        if "+cluster:" in self._server[0]:
            # There is no command for all nodes.
            store.delete_many(store.scan("*"))
        else:
            store.execute("FLUSHDB")

    def _clear_pattern(self, pattern: CacheKey, client: Any) -> None:
        self.delete_pattern(pattern, client=client)

    def sscan(
        self,
        key: Any,
        match: str | None = None,
        count: int | None = 10,
        version: int | None = None,
        client: Any = None,
    ) -> builtins.set[Any]:
        """Returns some members of a set: those of the first step of a scan."""
        _, members = self._sscan(self.make_key(key, version), 0, match, count, client)
        return {self.decode(member) for member in members}

    def sscan_iter(
        self,
        key: Any,
        match: str | None = None,
        count: int | None = 10,
        version: int | None = None,
        client: Any = None,
    ) -> Iterator[Any]:
        """Yields the members of a set, from a scan in steps of `count`."""
        name, cursor = self.make_key(key, version), 0
        while True:
            cursor, members = self._sscan(name, cursor, match, count, client)
            for member in members:
                yield self.decode(member)
            if cursor == 0:
                return

    def _sscan(
        self, name: str, cursor: int, match: str | None, count: int | None, client: Any
    ) -> tuple[int, list[Any]]:
        step: tuple[int, list[Any]] = self._execute(
            self._sscan_step(name, cursor, match, count), client
        )
        return step

    def _sscan_step(self, name: str, cursor: int, match: str | None, count: int | None) -> Command:
        if match and self._has_compression_enabled():
            message = "Using match with compression is not supported."
            raise ValueError(message)
        words: tuple[Any, ...] = ("SSCAN", name, cursor)
        if match:
            words += ("MATCH", self.encode(match))
        if count is not None:
            words += ("COUNT", count)
        return Command(words, lambda reply: (int(reply[0]), reply[1]), False)
