"""The client of one server, of a primary with replicas, of sentinels, or of a Cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.cache.backends.base import BaseCache

from ...lock import Lock
from .awaited import AwaitedMethods
from .coding import Coding
from .commands import Command, CommandBuilder
from .connections import Connections
from .integers import Integers
from .many import ManyValues
from .native import plain_methods
from .patterns import Patterns

__all__ = ["DefaultClient"]


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


class DefaultClient(ManyValues, Integers, Patterns, AwaitedMethods):
    """Executes the commands of a cache. With several URLs, reads go to all but the first."""

    # Whether `get_or_set` computes once for all callers.
    shares_computations = True

    def __init__(self, server: Any, params: dict[str, Any], backend: BaseCache) -> None:
        self._params = params
        Connections.__init__(self, server, params.get("OPTIONS", {}))
        Coding.__init__(self, params, backend)

    def __contains__(self, key: Any) -> bool:
        return bool(self.has_key(key))

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
            # A client of redis-py, whose locks exclude those of this package, and the reverse.
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
    ttl pttl persist expire pexpire expire_at pexpire_at has_key
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

DefaultClient._plain_methods = plain_methods(DefaultClient)
