"""The client of one server, of a primary with replicas, of sentinels, or of a Cluster."""

from __future__ import annotations

import builtins
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import (
    DEFAULT_TIMEOUT,
    MEMCACHE_MAX_KEY_LENGTH,
    BaseCache,
    get_key_func,
)
from django.utils.module_loading import import_string

from ... import _core
from ...aio import bell_of_loop
from ...lock import Lock
from .. import options as options_
from ..exceptions import CompressorError, ConnectionInterrupted
from ..options import is_compatible
from ..pool import get_connection_factory, is_store_error
from ..util import CacheKey, glob_escape
from .awaited import AwaitedMethods
from .commands import MISSING, Command, CommandBuilder

__all__ = ["DefaultClient"]

_INCR_IF_PRESENT = (
    "if redis.call('EXISTS', KEYS[1]) == 0 then return false end "
    "return redis.call('INCRBY', KEYS[1], ARGV[1])"
)
# Keys that are deleted by one command.
_DELETED_AT_ONCE = 1000


def _sync(build: Callable[..., Command]) -> Any:
    def method(self: DefaultClient, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        return self._execute(build(self, *args, **kwargs), client)

    return _named(method, build)


def _async(build: Callable[..., Command]) -> Any:
    async def method(self: DefaultClient, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        return await self._aexecute(build(self, *args, **kwargs), client)

    return _named(method, build)


def _named(method: Any, build: Callable[..., Command]) -> Any:
    method.__name__ = build.__name__.removeprefix("_")
    method.__qualname__ = f"DefaultClient.{method.__name__}"
    method.__doc__ = build.__doc__
    return method


class DefaultClient(AwaitedMethods):
    """Executes the commands of a cache. With several URLs, reads go to all but the first."""

    def __init__(self, server: Any, params: dict[str, Any], backend: BaseCache) -> None:
        self._backend = backend
        self._params = params
        self._options: dict[str, Any] = params.get("OPTIONS", {})
        self._server = options_.locations(server)
        # redis-py's clients, made when one is asked for.
        self._clients: list[Any] = [None] * len(self._server)
        self._stores: list[_core.Store | None] = [None] * len(self._server)
        self._is_compatible = is_compatible(self._options)
        # Django's own validation takes as long as a command. It is left out for keys that pass it.
        self._validates_all = type(backend).validate_key is not BaseCache.validate_key
        self._replica_read_only = self._options.get("REPLICA_READ_ONLY", True)
        self.reverse_key = get_key_func(
            params.get("REVERSE_KEY_FUNCTION") or "lockstock.django.util.default_reverse_key"
        )
        serializers = _paths(
            self._options.get("SERIALIZER", "lockstock.django.serializers.pickle.PickleSerializer")
        )
        compressors = _paths(
            self._options.get(
                "COMPRESSOR", "lockstock.django.compressors.identity.IdentityCompressor"
            )
        )
        # The first writes, any of them reads.
        self._serializers = [import_string(path)(options=self._options) for path in serializers]
        self._compressors = [import_string(path)(options=self._options) for path in compressors]
        self._serializer = self._serializers[0]
        self._compressor = self._compressors[0]
        self.connection_factory = get_connection_factory(self._options)

    def __contains__(self, key: Any) -> bool:
        return bool(self.has_key(key))

    # --- connections ------------------------------------------------------------------

    def get_next_client_index(self, write: bool = True, tried: list[int] | None = None) -> int:
        """Returns the index of the URL to use, other than those that were tried."""
        if tried and len(tried) < len(self._server):
            return random.choice([n for n in range(len(self._server)) if n not in tried])
        if write or len(self._server) == 1:
            return 0
        return random.randint(1, len(self._server) - 1)

    def get_client(self, write: bool = True, tried: list[int] | None = None) -> Any:
        """Returns a client of redis-py for the same server. Requires `lockstock[redis]`."""
        return self.get_client_with_index(write, tried)[0]

    def get_client_with_index(
        self, write: bool = True, tried: list[int] | None = None
    ) -> tuple[Any, int]:
        """Returns a client of redis-py, and the index of its URL."""
        index = self.get_next_client_index(write=write, tried=tried)
        if self._clients[index] is None:
            self._clients[index] = self.connect(index)
        return self._clients[index], index

    def connect(self, index: int = 0) -> Any:
        """Returns a new client of redis-py for the URL with this index."""
        return self.connection_factory.connect(self._server[index])

    def disconnect(self, index: int = 0, client: Any = None) -> None:
        """Closes the connections of a client of redis-py, or the idle ones of a store."""
        if client is None:
            client = self._clients[index]
        if client is not None:
            self.connection_factory.disconnect(client)

    def close(self) -> None:
        """Closes nothing, unless `CLOSE_CONNECTION` is set: connections are shared by requests."""
        default = getattr(settings, "DJANGO_REDIS_CLOSE_CONNECTION", False)
        if self._options.get("CLOSE_CONNECTION", default):
            self.do_close_clients()

    def do_close_clients(self) -> None:
        """Closes the connections to the servers, and those of redis-py's clients."""
        for index in range(len(self._clients)):
            self.disconnect(index=index)
            self.disconnect(client=self._stores[index])
        self._clients = [None] * len(self._clients)

    def _store(self, index: int) -> _core.Store:
        store = self._stores[index]
        if store is None:
            store = options_.store(self._server[index], self._options)
            self._stores[index] = store
        return store

    def _target(self, key: Any, is_write: bool, tried: list[int] | None = None) -> _core.Store:
        """Returns the store that has a key."""
        return self._store(self.get_next_client_index(write=is_write, tried=tried))

    # --- commands ----------------------------------------------------------------------

    def _execute(self, command: Command, client: Any = None) -> Any:
        """Executes a command on the store, or on a client or pipeline of redis-py."""
        if client is not None:
            return self._execute_on(client, command)
        tried: list[int] = []
        while True:
            index = self.get_next_client_index(write=command.is_write, tried=tried)
            try:
                return self._execute_on(self._target_at(command, index), command)
            except ConnectionInterrupted:
                # Any of the servers may be the one that accepts writes.
                if self._replica_read_only or len(tried) + 1 >= len(self._server):
                    raise
                tried.append(index)

    def _target_at(self, command: Command, index: int) -> _core.Store:
        return self._store(index)

    def _execute_on(self, target: Any, command: Command) -> Any:
        if isinstance(target, _core.Store):
            reply = self._guarded(target, target.execute, *command.args)
        else:
            reply = self._guarded(target, _execute_by_redis_py, target, command.args)
        # A pipeline returns itself: the reply comes later.
        return reply if reply is target else command.read(reply)

    async def _aexecute(self, command: Command, client: Any = None) -> Any:
        """Executes a command as `_execute` does."""
        if client is not None:
            return await self._aexecute_on(client, command)
        tried: list[int] = []
        while True:
            index = self.get_next_client_index(write=command.is_write, tried=tried)
            try:
                return await self._aexecute_on(self._target_at(command, index), command)
            except ConnectionInterrupted:
                if self._replica_read_only or len(tried) + 1 >= len(self._server):
                    raise
                tried.append(index)

    async def _aexecute_on(self, target: Any, command: Command) -> Any:
        if isinstance(target, _core.Store):
            sent = bell_of_loop().run(target.begin_execute, *command.args)
        else:
            sent = target.execute_command(*command.args)
        return command.read(await self._aguarded(target, sent))

    # --- keys and values -----------------------------------------------------------------

    def make_key(self, key: Any, version: int | None = None, prefix: str | None = None) -> CacheKey:
        """Returns the key in the store."""
        if isinstance(key, CacheKey):
            return key
        if prefix is None:
            prefix = self._backend.key_prefix
        if version is None:
            version = self._backend.version
        name = CacheKey(self._backend.key_func(key, prefix, version))
        if not self._is_compatible and (self._validates_all or not _is_valid_for_memcached(name)):
            self._backend.validate_key(name)
        return name

    def make_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None
    ) -> CacheKey:
        """Returns a pattern of keys in the store. Prefix and version match themselves only."""
        if isinstance(pattern, CacheKey):
            return pattern
        if prefix is None:
            prefix = self._backend.key_prefix
        if version is None:
            version = self._backend.version
        return CacheKey(
            self._backend.key_func(pattern, glob_escape(prefix), glob_escape(str(version)))
        )

    def encode(self, value: Any, *, allow_int: bool = True) -> bytes | int:
        """Returns the bytes of a value. An int stays one, so that Redis can increment it."""
        if allow_int and isinstance(value, int) and not isinstance(value, (bool, Enum)):
            return value
        encoded: bytes = self._compressor.compress(self._serializer.dumps(value))
        return encoded

    def decode(self, value: Any) -> Any:
        """Returns the value of the bytes in the store."""
        try:
            return int(value)
        except (TypeError, ValueError):
            pass
        for compressor in self._compressors:
            with suppress(CompressorError):
                value = compressor.decompress(value)
                break
        if len(self._serializers) == 1:
            return self._serializer.loads(value)
        return self._loads_any(value)

    def _loads_any(self, value: bytes) -> Any:
        first = None
        for serializer in self._serializers:
            try:
                return serializer.loads(value)
            except Exception as failure:
                first = first or failure
        assert first is not None
        raise first

    def _has_compression_enabled(self) -> bool:
        return not type(self._compressor).__name__.startswith("Identity")

    def _timeout(self, timeout: Any) -> Any:
        return self._backend.default_timeout if timeout is DEFAULT_TIMEOUT else timeout

    # --- get and set ------------------------------------------------------------------------

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

    # --- many ---------------------------------------------------------------------------------

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

    def _guarded(self, target: Any, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as failure:
            if is_store_error(failure):
                raise ConnectionInterrupted(connection=target) from failure
            raise

    async def _aguarded(self, target: Any, reply: Awaitable[Any]) -> Any:
        try:
            return await reply
        except Exception as failure:
            if is_store_error(failure):
                raise ConnectionInterrupted(connection=target) from failure
            raise

    # --- integers -----------------------------------------------------------------------------

    def incr(
        self,
        key: Any,
        delta: int = 1,
        version: int | None = None,
        client: Any = None,
        ignore_key_check: bool = False,
    ) -> int:
        """Adds `delta` to an integer and returns the sum.

        Raises `ValueError` if there is no value, unless `ignore_key_check` is true: then a missing
        value counts as 0 and never expires.
        """
        name = self.make_key(key, version=version)
        try:
            total = self._execute(self._incr(name, delta, ignore_key_check), client)
        except ConnectionInterrupted as failure:
            if not self._is_no_integer(failure):
                raise
            # No integer of 64 bits: added here, which is not atomic.
            return self._incr_serialized(name, delta, client)
        return self._incremented(key, total)

    def _incr(self, name: CacheKey, delta: int, ignore_key_check: bool) -> Command:
        if ignore_key_check:
            return Command(("INCRBY", name, delta), lambda reply: reply)
        return Command(("EVAL", _INCR_IF_PRESENT, 1, name, delta), lambda reply: reply)

    def _is_no_integer(self, failure: ConnectionInterrupted) -> bool:
        reason = str(failure.__cause__)
        return "increment" in reason or "integer" in reason

    def _incremented(self, key: Any, total: Any) -> int:
        if total is None or total is False:
            message = f"Key '{key!r}' not found"
            raise ValueError(message)
        return total  # type: ignore[no-any-return]

    def _incr_serialized(self, name: CacheKey, delta: int, client: Any) -> int:
        remaining = self._execute(Command(("PTTL", name), int, False), client)
        value = self.get(name, MISSING, client=client)
        if remaining == -2 or value is MISSING:
            message = f"Key '{name!r}' not found"
            raise ValueError(message)
        timeout = None if remaining < 0 else remaining / 1000
        self.set(name, value + delta, timeout=timeout, client=client)
        return value + delta  # type: ignore[no-any-return]

    def decr(self, key: Any, delta: int = 1, version: int | None = None, client: Any = None) -> int:
        """Subtracts `delta` from an integer: see `incr`."""
        return self.incr(key, -delta, version=version, client=client)

    def incr_version(
        self, key: Any, delta: int = 1, version: int | None = None, client: Any = None
    ) -> int:
        """Moves a value to a higher version. Returns that version."""
        if version is None:
            version = self._backend.version
        old = self.make_key(key, version)
        value = self.get(old, MISSING, client=client)
        remaining = self.pttl(old, client=client)
        if value is MISSING or (value is None and self._is_compatible):
            message = f"Key '{key!r}' not found"
            raise ValueError(message)
        bare = key.original_key() if isinstance(key, CacheKey) else key
        new = self.make_key(bare, version=version + delta)
        timeout = None if remaining is None else remaining / 1000
        self.set(new, value, timeout=timeout, client=client)
        self.delete(old, client=client)
        return version + delta

    # --- patterns -----------------------------------------------------------------------------

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
            if is_store_error(failure):
                raise ConnectionInterrupted(connection=target) from failure
            raise

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

    # --- locks ----------------------------------------------------------------------------------

    def lock(
        self,
        key: Any,
        version: int | None = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        client: Any = None,
        thread_local: bool = True,
        *,
        renew: bool = False,
        raise_on_release_error: bool = True,
    ) -> Lock:
        """Returns a lock: see `lockstock.Lock`. Nothing is acquired yet."""
        name = self.make_key(key, version=version)
        if client is not None:
            # A client of redis-py, whose locks exclude ours and the reverse.
            return client.lock(  # type: ignore[no-any-return]
                name,
                timeout=timeout,
                sleep=sleep,
                blocking=blocking,
                blocking_timeout=blocking_timeout,
                thread_local=thread_local,
            )
        return Lock(
            self._target(name, is_write=True),
            name,
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            raise_on_release_error=raise_on_release_error,
            renew=renew,
        )


_STRUCTURES = """
    ttl pttl persist expire pexpire expire_at pexpire_at touch has_key
    hset hget hmget hgetall hincrby hdel hlen hkeys hexists
    sadd scard sdiff sinter sunion sdiffstore sinterstore sunionstore smismember sismember
    smembers smove spop srandmember srem
    zadd zcard zcount zincrby zpopmax zpopmin zrange zrevrange zrangebyscore zrevrangebyscore
    zrank zrem zremrangebyscore zscore
""".split()

for _name in _STRUCTURES:
    _build = getattr(CommandBuilder, f"_{_name}")
    setattr(DefaultClient, _name, _sync(_build))
    setattr(DefaultClient, f"a{_name}", _async(_build))


def _execute_by_redis_py(client: Any, args: tuple[Any, ...]) -> Any:
    if args[0] == "SET":
        # As django-redis calls it: applications pass clients and pipelines of their own.
        words = args[3:]
        px = words[1] if words[:1] == ("PX",) else None
        return client.set(args[1], args[2], nx="NX" in words, px=px, xx="XX" in words)
    return client.execute_command(*args)


def _is_valid_for_memcached(name: str) -> bool:
    """Returns whether Django warns of no key: false for some keys that it does not warn of."""
    return len(name) <= MEMCACHE_MAX_KEY_LENGTH and name.isprintable() and " " not in name


def _paths(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
