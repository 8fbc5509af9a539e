"""Methods of one value: get, set, add, delete."""

from __future__ import annotations

from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .coding import Coding
from .commands import Command
from .connections import Connections

__all__ = ["Values"]


class Values(Connections, Coding):
    """Reads and writes one value at a time."""

    def _get(self, key: Any, default: Any = None, version: int | None = None) -> Command:
        def read(reply: Any) -> Any:
            return default if reply is None else self.decode(reply)

        return Command(("GET", self.make_key(key, version=version)), read, False)

    def get(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Returns the value under a key, `default` if there is none."""
        return self._execute(self._get(key, default, version), client)

    async def aget(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Returns the value under a key, `default` if there is none."""
        return await self._aexecute(self._get(key, default, version), client)

    def _set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        nx: bool = False,
        xx: bool = False,
    ) -> Command:
        name, encoded = self.make_key(key, version=version), self.encode(value)
        timeout = self._timeout(timeout)
        args: tuple[Any, ...] = ("SET", name, encoded)
        if timeout is not None:
            milliseconds = int(timeout * 1000)
            if milliseconds <= 0:
                # Expired at once. With nx, a value that exists stays.
                if nx:
                    return Command(("EXISTS", name), lambda reply: not reply, False)
                return Command(("DEL", name), bool)
            args += ("PX", milliseconds)
        if nx:
            args += ("NX",)
        if xx:
            args += ("XX",)
        return Command(args, bool)

    def set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
        nx: bool = False,
        xx: bool = False,
    ) -> bool:
        """Writes a value. Returns whether the condition was met.

        `timeout` is in seconds: None never expires, 0 or less deletes. `nx` writes only if there
        is no value, `xx` only if there is one.
        """
        written: bool = self._execute(self._set(key, value, timeout, version, nx, xx), client)
        return written

    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
        nx: bool = False,
        xx: bool = False,
    ) -> bool:
        """Writes a value as `set` does."""
        command = self._set(key, value, timeout, version, nx, xx)
        written: bool = await self._aexecute(command, client)
        return written

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Writes a value if there is none. Returns whether it was written."""
        return self.set(key, value, timeout, version=version, client=client, nx=True)

    async def aadd(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Writes a value if there is none. Returns whether it was written."""
        return await self.aset(key, value, timeout, version=version, client=client, nx=True)

    def delete(
        self,
        key: Any,
        version: int | None = None,
        prefix: str | None = None,
        client: Any = None,
    ) -> int:
        """Removes a value. Returns the number of values removed."""
        command = Command(("DEL", self.make_key(key, version=version, prefix=prefix)), int)
        deleted: int = self._execute(command, client)
        return deleted

    async def adelete(
        self,
        key: Any,
        version: int | None = None,
        prefix: str | None = None,
        client: Any = None,
    ) -> int:
        """Removes a value. Returns the number of values removed."""
        command = Command(("DEL", self.make_key(key, version=version, prefix=prefix)), int)
        deleted: int = await self._aexecute(command, client)
        return deleted
