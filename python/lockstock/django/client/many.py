"""Methods of several values at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from ...aio import bell_of_loop
from ...entry import Unusable
from ..util import CacheKey
from .commands import Command
from .values import Values

__all__ = ["ManyValues"]


class ManyValues(Values):
    """Reads and writes several values without a round trip for each."""

    def _call_many(self, method: str, keys: Any, version: int | None, *args: Any) -> Any:
        """Calls a method of the native cache with several keys, without trying a second time."""
        native = self._native or self._open_native()
        if native is None:
            return NotImplemented
        backend = self._backend
        if version is None:
            version = backend.version
        try:
            return getattr(native, method)(keys, version, backend.key_prefix, *args)
        except Exception as failure:
            self._fail(failure, self._stores[0])

    def _get_many(
        self, keys: Iterable[Any], version: int | None = None
    ) -> tuple[dict[CacheKey, Any], Callable[[Any], dict[Any, Any]]]:
        names = {self.make_key(key, version=version): key for key in keys}

        def read(replies: Any) -> dict[Any, Any]:
            found = {}
            for key, reply in zip(names.values(), replies, strict=True):
                if reply is not None:
                    with suppress(Unusable):
                        found[key] = self.decode(reply)
            return found

        return names, read

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> dict[Any, Any]:
        """Returns the values that exist, by key."""
        keys = list(keys)
        if client is None:
            found = self._call_many("get_many", keys, version)
            if found is NotImplemented and self._native is not None:
                by_name = {self._made(key, version): key for key in keys}
                values = self._call_many("get_many", list(by_name), None)
                found = {by_name[name]: value for name, value in values.items()}
            if found is not NotImplemented:
                return found  # type: ignore[no-any-return]
        names, read = self._get_many(keys, version)
        if not names:
            return {}
        command = Command(("MGET", *names), read, False)
        if client is not None:
            return self._execute_on(client, command)  # type: ignore[no-any-return]
        store = self._target(next(iter(names)), is_write=False)
        return read(self._guarded(store, store.get_many, list(names)))

    async def aget_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> dict[Any, Any]:
        """Returns the values that exist, by key."""
        names, read = self._get_many(keys, version)
        if not names:
            return {}
        store = self._target(next(iter(names)), is_write=False)
        commands = [("GET", name) for name in names]
        sent = bell_of_loop().pipeline(store, commands)
        return read(await self._aguarded(store, sent))

    def set_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> None:
        """Writes several values, by commands that are sent together."""
        if client is None:
            limit = self._timeout(timeout)
            if self._call_many("set_many", dict(data), version, limit) is not NotImplemented:
                return
        commands = [self._set(key, value, timeout, version) for key, value in data.items()]
        if not commands:
            return
        if client is not None:
            for command in commands:
                self._execute_on(client, command)
            return
        store = self._target(commands[0].key, is_write=True)
        self._guarded(store, store.pipeline, [command.args for command in commands])

    async def aset_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> None:
        """Writes several values, by commands that are sent together."""
        commands = [self._set(key, value, timeout, version) for key, value in data.items()]
        if commands:
            store = self._target(commands[0].key, is_write=True)
            args = [command.args for command in commands]
            sent = bell_of_loop().pipeline(store, args)
            await self._aguarded(store, sent)

    def delete_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> int:
        """Removes several values. Returns the number of values removed."""
        names = self._keys(keys, version)
        if not names:
            return 0
        if client is not None:
            return self._execute_on(client, Command(("DEL", *names), int))  # type: ignore[no-any-return]
        store = self._target(names[0], is_write=True)
        return self._guarded(store, store.delete_many, names)  # type: ignore[no-any-return]

    async def adelete_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> int:
        """Removes several values. Returns the number of values removed."""
        names = self._keys(keys, version)
        if not names:
            return 0
        store = self._target(names[0], is_write=True)
        sent = bell_of_loop().pipeline(store, [("UNLINK", name) for name in names])
        return sum(await self._aguarded(store, sent))
