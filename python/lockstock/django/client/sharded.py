"""The client of several independent servers: each key is on one of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from ... import _core
from ...aio import bell_of_loop
from ..hash_ring import HashRing
from ..util import CacheKey
from .commands import Command
from .default import DefaultClient

__all__ = ["ShardClient"]

# As django-redis: the text in braces, if there is one, chooses the server.
_TAG = re.compile(r".*\{(.*)\}.*")


class ShardClient(DefaultClient):
    """Chooses the server by a hash of the key, as django-redis does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ring = HashRing(self._server)
        self._serverdict: dict[str, Any] = {url: None for url in self._server}

    def get_client(self, *args: Any, **kwargs: Any) -> Any:
        """Fails: there is no client of all servers. See `get_server`."""
        raise NotImplementedError

    def get_server_name(self, key: Any) -> str:
        """Returns the URL of the server of a key."""
        tag = _TAG.match(str(key))
        name = self._ring.get_node(tag.group(1) if tag else str(key))
        assert name is not None
        return name

    def get_server(self, key: Any) -> Any:
        """Returns a client of redis-py for the server of a key."""
        name = self.get_server_name(key)
        if self._serverdict[name] is None:
            self._serverdict[name] = self.connection_factory.connect(name)
        return self._serverdict[name]

    def _store_of(self, url: str) -> _core.Store:
        return self._store(self._server.index(url))

    def _all_stores(self) -> list[_core.Store]:
        return [self._store_of(url) for url in dict.fromkeys(self._server)]

    def _target(self, key: Any, is_write: bool, tried: list[int] | None = None) -> _core.Store:
        return self._store_of(self.get_server_name(key))

    def _target_at(self, command: Command, index: int) -> _core.Store:
        key = command.args[3] if command.args[0] == "EVAL" else command.key
        return self._store_of(self.get_server_name(key))

    def _by_store(self, names: Iterable[str]) -> dict[_core.Store, list[str]]:
        grouped: dict[_core.Store, list[str]] = {}
        for name in names:
            grouped.setdefault(self._target(name, is_write=True), []).append(name)
        return grouped

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> dict[Any, Any]:
        """Returns the values that exist, by key."""
        if client is not None:
            message = "get_many on sharded client may not specify client"
            raise NotImplementedError(message)
        names, read = self._get_many(keys, version)
        replies: dict[str, Any] = {}
        for store, some in self._by_store(names).items():
            values = self._guarded(store, store.get_many, some)
            replies.update(zip(some, values, strict=True))
        return read([replies[name] for name in names])

    def set_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> None:
        """Writes several values, by commands that are sent together to each server."""
        for store, commands in self._set_many(data, timeout, version).items():
            self._guarded(store, store.pipeline, commands)

    def _set_many(
        self, data: dict[Any, Any], timeout: float | None, version: int | None
    ) -> dict[_core.Store, list[tuple[Any, ...]]]:
        grouped: dict[_core.Store, list[tuple[Any, ...]]] = {}
        for key, value in data.items():
            command = self._set(key, value, timeout, version)
            grouped.setdefault(self._target_at(command, 0), []).append(command.args)
        return grouped

    def delete_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> int:
        """Removes several values. Returns the number of values removed."""
        if client is not None:
            message = "delete_many on sharded client may not specify client"
            raise NotImplementedError(message)
        grouped = self._by_store(self._keys(keys, version))
        return sum(
            self._guarded(store, store.delete_many, names) for store, names in grouped.items()
        )

    async def aget_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> dict[Any, Any]:
        """Returns the values that exist, by key."""
        names, read = self._get_many(keys, version)
        replies: dict[str, Any] = {}
        for store, some in self._by_store(names).items():
            sent = bell_of_loop().pipeline(store, [("GET", name) for name in some])
            values = await self._aguarded(store, sent)
            replies.update(zip(some, values, strict=True))
        return read([replies[name] for name in names])

    async def aset_many(
        self,
        data: dict[Any, Any],
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        client: Any = None,
    ) -> None:
        """Writes several values, by commands that are sent together to each server."""
        for store, commands in self._set_many(data, timeout, version).items():
            sent = bell_of_loop().pipeline(store, commands)
            await self._aguarded(store, sent)

    async def adelete_many(
        self, keys: Iterable[Any], version: int | None = None, client: Any = None
    ) -> int:
        """Removes several values. Returns the number of values removed."""
        deleted = 0
        for store, names in self._by_store(self._keys(keys, version)).items():
            sent = bell_of_loop().pipeline(store, [("UNLINK", name) for name in names])
            deleted += sum(await self._aguarded(store, sent))
        return deleted

    def iter_keys(
        self,
        search: str,
        itersize: int | None = None,
        client: Any = None,
        version: int | None = None,
    ) -> Iterator[str]:
        """Fails, as in django-redis. See `keys`."""
        message = "iter_keys not supported on sharded client"
        raise NotImplementedError(message)

    def keys(self, search: str, version: int | None = None, client: Any = None) -> list[str]:
        """Returns the keys that match a pattern, on all servers."""
        if client is not None:
            message = "keys on sharded client may not specify client"
            raise NotImplementedError(message)
        pattern = self.make_pattern(search, version=version)
        found = []
        for store in self._all_stores():
            for key in self._scan(pattern, None, store):
                found.append(self.reverse_key(key.decode() if isinstance(key, bytes) else key))
        return found

    def delete_pattern(
        self,
        pattern: str,
        version: int | None = None,
        prefix: str | None = None,
        client: Any = None,
        itersize: int | None = None,
    ) -> int:
        """Removes the values whose keys match a pattern, on all servers."""
        if client is not None:
            message = "delete_pattern on sharded client may not specify client"
            raise NotImplementedError(message)
        pattern = self.make_pattern(pattern, version=version, prefix=prefix)
        return sum(
            super(ShardClient, self).delete_pattern(pattern, client=store, itersize=itersize)
            for store in self._all_stores()
        )

    def clear(self, client: Any = None) -> None:
        """Removes everything in the databases of the cache."""
        for store in self._all_stores():
            super().clear(client=store)

    def _clear_pattern(self, pattern: CacheKey, client: Any) -> None:
        super().delete_pattern(pattern, client=client)

    def aiter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> AsyncIterator[str]:
        """Fails, as in django-redis. See `akeys`."""
        message = "aiter_keys not supported on sharded client"
        raise NotImplementedError(message)

    async def akeys(self, search: str, version: int | None = None) -> list[str]:
        """Returns the keys that match a pattern, on all servers."""
        pattern = self.make_pattern(search, version=version)
        found = []
        for store in self._all_stores():
            found += [self.reverse_key(key.decode()) for key in await self._ascan(store, pattern)]
        return found

    async def adelete_pattern(
        self,
        pattern: str,
        version: int | None = None,
        prefix: str | None = None,
        itersize: int | None = None,
    ) -> int:
        """Removes the values whose keys match a pattern, on all servers."""
        name = self.make_pattern(pattern, version=version, prefix=prefix)
        return sum([await self._adelete_scanned(store, name) for store in self._all_stores()])

    async def aclear(self) -> None:
        """Removes everything in the databases of the cache."""
        for store in self._all_stores():
            await self._aclear_store(store)

    def do_close_clients(self) -> None:
        """Closes the connections to the servers, and those of redis-py's clients."""
        for name, client in self._serverdict.items():
            self.disconnect(client=client)
            self._serverdict[name] = None
        for store in self._stores:
            self.disconnect(client=store)

    # Commands on several keys, which may be on different servers.

    def _many_sets(self, keys: tuple[Any, ...], version: int | None) -> list[set[Any]]:
        return [self.smembers(key, version=version) for key in keys]

    def sdiff(self, *keys: Any, version: int | None = None, client: Any = None) -> set[Any]:
        """Returns the members of the first set that are in no other."""
        first, *others = self._many_sets(keys, version)
        return first.difference(*others)

    def sinter(self, *keys: Any, version: int | None = None, client: Any = None) -> set[Any]:
        """Returns the members that all sets have."""
        first, *others = self._many_sets(keys, version)
        return first.intersection(*others)

    def sunion(self, *keys: Any, version: int | None = None, client: Any = None) -> set[Any]:
        """Returns the members of all sets."""
        return set().union(*self._many_sets(keys, version))

    def _store_set(self, dest: Any, members: set[Any], version: int | None) -> int:
        self.delete(dest, version=version)
        return self.sadd(dest, *members, version=version) if members else 0

    def sdiffstore(
        self,
        dest: Any,
        *keys: Any,
        version_dest: int | None = None,
        version_keys: int | None = None,
        client: Any = None,
    ) -> int:
        """Writes what `sdiff` returns. Not atomic."""
        return self._store_set(dest, self.sdiff(*keys, version=version_keys), version_dest)

    def sinterstore(
        self, dest: Any, *keys: Any, version: int | None = None, client: Any = None
    ) -> int:
        """Writes what `sinter` returns. Not atomic."""
        return self._store_set(dest, self.sinter(*keys, version=version), version)

    def sunionstore(
        self, destination: Any, *keys: Any, version: int | None = None, client: Any = None
    ) -> int:
        """Writes what `sunion` returns. Not atomic."""
        return self._store_set(destination, self.sunion(*keys, version=version), version)

    def smove(
        self,
        source: Any,
        destination: Any,
        member: Any,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Moves a member from one set to another. Not atomic."""
        if not self.srem(source, member, version=version):
            return False
        self.sadd(destination, member, version=version)
        return True

    async def _amany_sets(self, keys: tuple[Any, ...], version: int | None) -> list[set[Any]]:
        return [await self.asmembers(key, version=version) for key in keys]

    async def asdiff(self, *keys: Any, version: int | None = None, client: Any = None) -> set[Any]:
        """Returns the members of the first set that are in no other."""
        first, *others = await self._amany_sets(keys, version)
        return first.difference(*others)

    async def asinter(self, *keys: Any, version: int | None = None, client: Any = None) -> set[Any]:
        """Returns the members that all sets have."""
        first, *others = await self._amany_sets(keys, version)
        return first.intersection(*others)

    async def asunion(self, *keys: Any, version: int | None = None, client: Any = None) -> set[Any]:
        """Returns the members of all sets."""
        return set().union(*await self._amany_sets(keys, version))

    async def _astore_set(self, dest: Any, members: set[Any], version: int | None) -> int:
        await self.adelete(dest, version=version)
        return await self.asadd(dest, *members, version=version) if members else 0

    async def asdiffstore(
        self,
        dest: Any,
        *keys: Any,
        version_dest: int | None = None,
        version_keys: int | None = None,
        client: Any = None,
    ) -> int:
        """Writes what `asdiff` returns. Not atomic."""
        members = await self.asdiff(*keys, version=version_keys)
        return await self._astore_set(dest, members, version_dest)

    async def asinterstore(
        self, dest: Any, *keys: Any, version: int | None = None, client: Any = None
    ) -> int:
        """Writes what `asinter` returns. Not atomic."""
        return await self._astore_set(dest, await self.asinter(*keys, version=version), version)

    async def asunionstore(
        self, destination: Any, *keys: Any, version: int | None = None, client: Any = None
    ) -> int:
        """Writes what `asunion` returns. Not atomic."""
        members = await self.asunion(*keys, version=version)
        return await self._astore_set(destination, members, version)

    async def asmove(
        self,
        source: Any,
        destination: Any,
        member: Any,
        version: int | None = None,
        client: Any = None,
    ) -> bool:
        """Moves a member from one set to another. Not atomic."""
        if not await self.asrem(source, member, version=version):
            return False
        await self.asadd(destination, member, version=version)
        return True
