"""Methods of several values at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from ...aio import bell_of_loop
from ..util import CacheKey
from .commands import Command
from .values import Values

__all__ = ["ManyValues"]


class ManyValues(Values):
    """Reads and writes several values without a round trip for each."""

    def _get_many(
        self, keys: Iterable[Any], version: int | None = None
    ) -> tuple[dict[CacheKey, Any], Callable[[Any], dict[Any, Any]]]:
        names = {self.make_key(key, version=version): key for key in keys}

        def read(replies: Any) -> dict[Any, Any]:
            pairs = zip(names.values(), replies, strict=True)
            return {key: self.decode(reply) for key, reply in pairs if reply is not None}

        return names, read

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> dict[Any, Any]:
        """Returns the values that exist, by key."""
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
        sent = bell_of_loop().run(store.begin_pipeline, commands)
        return read(await self._aguarded(store, sent))

    def set_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> None:
        """Writes several values, by commands that are sent together."""
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
            sent = bell_of_loop().run(store.begin_pipeline, args)
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
        sent = bell_of_loop().run(store.begin_pipeline, [("UNLINK", name) for name in names])
        return sum(await self._aguarded(store, sent))
