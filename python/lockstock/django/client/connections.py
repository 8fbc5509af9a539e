"""Where the commands of a client go: to a store for each URL, or to a client of redis-py."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from django.conf import settings

from ... import _core
from ...aio import bell_of_loop
from .. import options as options_
from ..exceptions import ConnectionInterrupted
from ..pool import get_connection_factory, is_store_error
from .commands import Command

__all__ = ["Connections"]


class Connections:
    """The servers of a client, and the execution of commands on them."""

    def __init__(self, server: Any, options: dict[str, Any]) -> None:
        self._options = options
        self._server = options_.locations(server)
        # redis-py's clients, made when one is asked for.
        self._clients: list[Any] = [None] * len(self._server)
        self._stores: list[_core.Store | None] = [None] * len(self._server)
        self._replica_read_only = options.get("REPLICA_READ_ONLY", True)
        self.connection_factory = get_connection_factory(options)

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
            sent = bell_of_loop().execute(target, *command.args)
        else:
            sent = target.execute_command(*command.args)
        return command.read(await self._aguarded(target, sent))

    def _guarded(self, target: Any, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as failure:
            self._fail(failure, target)

    async def _aguarded(self, target: Any, reply: Awaitable[Any]) -> Any:
        try:
            return await reply
        except Exception as failure:
            self._fail(failure, target)

    def _fail(self, failure: Exception, target: Any) -> NoReturn:
        if is_store_error(failure):
            raise ConnectionInterrupted(connection=target) from failure
        raise failure


def _execute_by_redis_py(client: Any, args: tuple[Any, ...]) -> Any:
    if args[0] == "SET":
        # As django-redis calls it: applications pass clients and pipelines of their own.
        words = args[3:]
        px = words[1] if words[:1] == ("PX",) else None
        return client.set(args[1], args[2], nx="NX" in words, px=px, xx="XX" in words)
    return client.execute_command(*args)
