"""Methods of one value: get, set, add, delete."""

from __future__ import annotations

from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from ...aio import bell_of_loop, is_tracing
from ...entry import Unusable
from .commands import Command, milliseconds
from .native import NativePath

__all__ = ["Values"]


class Values(NativePath):
    """Reads and writes one value at a time."""

    def _get(self, key: Any, default: Any = None, version: int | None = None) -> Command:
        def read(reply: Any) -> Any:
            try:
                return default if reply is None else self.decode(reply)
            except Unusable:
                return default

        return Command(("GET", self.make_key(key, version=version)), read, False)

    def get(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Returns the value under a key, `default` if there is none."""
        native = self._native or self._open_native()
        if native is None or client is not None:
            return self._execute(self._get(key, default, version), client)
        # As `_call` does, without its costs: a copy of the near cache takes a microsecond.
        backend = self._backend
        try:
            value = native.get(
                key, backend.version if version is None else version, backend.key_prefix, default
            )
            if value is NotImplemented:
                value = native.get(self._made(key, version), None, None, default)
            return value
        except Exception as failure:
            self._fail(failure, self._stores[0])

    async def aget(
        self, key: Any, default: Any = None, version: int | None = None, client: Any = None
    ) -> Any:
        """Returns the value under a key, `default` if there is none."""
        native = self._native or self._open_native()
        if native is None or client is not None:
            return await self._aexecute(self._get(key, default, version), client)
        bell = bell_of_loop()
        sent = None
        if self._near is None and not is_tracing():
            sent = self._call("send_get", key, version, bell.wires)
        try:
            if sent is not None:
                value = await sent
                if value is NotImplemented:
                    value = await bell.run(sent.begin_rest)
            else:
                name = self._call("key", key, version)
                value = NotImplemented if self._near is None else native.copy(name)
                if value is NotImplemented:
                    value = await bell.run(native.begin_get, name)
        except Exception as failure:
            self._fail(failure, self._stores[0])
        return default if value is None else native.decode(value, default)

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
            limit_ms = milliseconds(timeout)
            if limit_ms <= 0:
                # Expired at once. With nx, a value that exists stays.
                if nx:
                    return Command(("EXISTS", name), lambda reply: not reply, False)
                return Command(("DEL", name), bool)
            args += ("PX", limit_ms)
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
        if client is None:
            limit = self._timeout(timeout)
            reply = self._call("set", key, version, value, limit, bool(nx), bool(xx))
            if reply is not NotImplemented:
                return reply  # type: ignore[no-any-return]
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
        if client is None and prefix is None:
            reply = self._call("delete", key, version)
            if reply is not NotImplemented:
                return reply  # type: ignore[no-any-return]
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

    def touch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Sets when a value expires, in seconds from now. Returns whether it was changed."""
        if client is None:
            reply = self._call("touch", key, version, self._timeout(timeout))
            if reply is not NotImplemented:
                return reply  # type: ignore[no-any-return]
        touched: bool = self._execute(self._touch(key, timeout, version), client)
        return touched

    async def atouch(
        self,
        key: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Sets when a value expires: see `touch`."""
        touched: bool = await self._aexecute(self._touch(key, timeout, version), client)
        return touched
