"""Methods of the backend for expiry, hashes, sets and sorted sets, and their asynchronous forms.

Written out, because instrumentation (ddtrace) wraps the functions of the class. The arguments and
the documentation are those of the commands: see `client/commands.py`.
"""

from __future__ import annotations

from typing import Any

from .client.commands import CommandBuilder
from .ignoring import aeach, each, ignore_failures

__all__ = ["Structures"]


class Structures:
    """What Redis has beyond values."""

    client: Any

    @ignore_failures()
    def ttl(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.ttl(*args, **kwargs)

    @ignore_failures()
    async def attl(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.attl(*args, **kwargs)

    @ignore_failures()
    def pttl(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.pttl(*args, **kwargs)

    @ignore_failures()
    async def apttl(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.apttl(*args, **kwargs)

    @ignore_failures()
    def persist(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.persist(*args, **kwargs)

    @ignore_failures()
    async def apersist(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.apersist(*args, **kwargs)

    @ignore_failures()
    def expire(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.expire(*args, **kwargs)

    @ignore_failures()
    async def aexpire(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.aexpire(*args, **kwargs)

    @ignore_failures()
    def pexpire(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.pexpire(*args, **kwargs)

    @ignore_failures()
    async def apexpire(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.apexpire(*args, **kwargs)

    @ignore_failures()
    def expire_at(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.expire_at(*args, **kwargs)

    @ignore_failures()
    async def aexpire_at(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.aexpire_at(*args, **kwargs)

    @ignore_failures()
    def pexpire_at(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.pexpire_at(*args, **kwargs)

    @ignore_failures()
    async def apexpire_at(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.apexpire_at(*args, **kwargs)

    @ignore_failures()
    def hset(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hset(*args, **kwargs)

    @ignore_failures()
    async def ahset(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahset(*args, **kwargs)

    @ignore_failures()
    def hget(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hget(*args, **kwargs)

    @ignore_failures()
    async def ahget(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahget(*args, **kwargs)

    @ignore_failures()
    def hmget(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hmget(*args, **kwargs)

    @ignore_failures()
    async def ahmget(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahmget(*args, **kwargs)

    @ignore_failures()
    def hgetall(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hgetall(*args, **kwargs)

    @ignore_failures()
    async def ahgetall(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahgetall(*args, **kwargs)

    @ignore_failures()
    def hincrby(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hincrby(*args, **kwargs)

    @ignore_failures()
    async def ahincrby(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahincrby(*args, **kwargs)

    @ignore_failures()
    def hdel(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hdel(*args, **kwargs)

    @ignore_failures()
    async def ahdel(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahdel(*args, **kwargs)

    @ignore_failures()
    def hlen(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hlen(*args, **kwargs)

    @ignore_failures()
    async def ahlen(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahlen(*args, **kwargs)

    @ignore_failures()
    def hkeys(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hkeys(*args, **kwargs)

    @ignore_failures()
    async def ahkeys(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahkeys(*args, **kwargs)

    @ignore_failures()
    def hexists(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.hexists(*args, **kwargs)

    @ignore_failures()
    async def ahexists(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ahexists(*args, **kwargs)

    @ignore_failures()
    def sadd(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sadd(*args, **kwargs)

    @ignore_failures()
    async def asadd(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asadd(*args, **kwargs)

    @ignore_failures()
    def scard(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.scard(*args, **kwargs)

    @ignore_failures()
    async def ascard(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.ascard(*args, **kwargs)

    @ignore_failures()
    def sdiff(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sdiff(*args, **kwargs)

    @ignore_failures()
    async def asdiff(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asdiff(*args, **kwargs)

    @ignore_failures()
    def sinter(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sinter(*args, **kwargs)

    @ignore_failures()
    async def asinter(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asinter(*args, **kwargs)

    @ignore_failures()
    def sunion(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sunion(*args, **kwargs)

    @ignore_failures()
    async def asunion(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asunion(*args, **kwargs)

    @ignore_failures()
    def sdiffstore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sdiffstore(*args, **kwargs)

    @ignore_failures()
    async def asdiffstore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asdiffstore(*args, **kwargs)

    @ignore_failures()
    def sinterstore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sinterstore(*args, **kwargs)

    @ignore_failures()
    async def asinterstore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asinterstore(*args, **kwargs)

    @ignore_failures()
    def sunionstore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sunionstore(*args, **kwargs)

    @ignore_failures()
    async def asunionstore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asunionstore(*args, **kwargs)

    @ignore_failures()
    def smismember(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.smismember(*args, **kwargs)

    @ignore_failures()
    async def asmismember(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asmismember(*args, **kwargs)

    @ignore_failures()
    def sismember(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.sismember(*args, **kwargs)

    @ignore_failures()
    async def asismember(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asismember(*args, **kwargs)

    @ignore_failures()
    def smembers(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.smembers(*args, **kwargs)

    @ignore_failures()
    async def asmembers(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asmembers(*args, **kwargs)

    @ignore_failures()
    def smove(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.smove(*args, **kwargs)

    @ignore_failures()
    async def asmove(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asmove(*args, **kwargs)

    @ignore_failures()
    def spop(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.spop(*args, **kwargs)

    @ignore_failures()
    async def aspop(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.aspop(*args, **kwargs)

    @ignore_failures()
    def srandmember(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.srandmember(*args, **kwargs)

    @ignore_failures()
    async def asrandmember(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asrandmember(*args, **kwargs)

    @ignore_failures()
    def srem(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.srem(*args, **kwargs)

    @ignore_failures()
    async def asrem(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.asrem(*args, **kwargs)

    @ignore_failures()
    def zadd(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zadd(*args, **kwargs)

    @ignore_failures()
    async def azadd(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azadd(*args, **kwargs)

    @ignore_failures()
    def zcard(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zcard(*args, **kwargs)

    @ignore_failures()
    async def azcard(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azcard(*args, **kwargs)

    @ignore_failures()
    def zcount(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zcount(*args, **kwargs)

    @ignore_failures()
    async def azcount(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azcount(*args, **kwargs)

    @ignore_failures()
    def zincrby(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zincrby(*args, **kwargs)

    @ignore_failures()
    async def azincrby(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azincrby(*args, **kwargs)

    @ignore_failures()
    def zpopmax(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zpopmax(*args, **kwargs)

    @ignore_failures()
    async def azpopmax(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azpopmax(*args, **kwargs)

    @ignore_failures()
    def zpopmin(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zpopmin(*args, **kwargs)

    @ignore_failures()
    async def azpopmin(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azpopmin(*args, **kwargs)

    @ignore_failures()
    def zrange(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zrange(*args, **kwargs)

    @ignore_failures()
    async def azrange(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azrange(*args, **kwargs)

    @ignore_failures()
    def zrevrange(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zrevrange(*args, **kwargs)

    @ignore_failures()
    async def azrevrange(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azrevrange(*args, **kwargs)

    @ignore_failures()
    def zrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zrangebyscore(*args, **kwargs)

    @ignore_failures()
    async def azrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azrangebyscore(*args, **kwargs)

    @ignore_failures()
    def zrevrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zrevrangebyscore(*args, **kwargs)

    @ignore_failures()
    async def azrevrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azrevrangebyscore(*args, **kwargs)

    @ignore_failures()
    def zrank(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zrank(*args, **kwargs)

    @ignore_failures()
    async def azrank(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azrank(*args, **kwargs)

    @ignore_failures()
    def zrem(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zrem(*args, **kwargs)

    @ignore_failures()
    async def azrem(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azrem(*args, **kwargs)

    @ignore_failures()
    def zremrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zremrangebyscore(*args, **kwargs)

    @ignore_failures()
    async def azremrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azremrangebyscore(*args, **kwargs)

    @ignore_failures()
    def zscore(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.zscore(*args, **kwargs)

    @ignore_failures()
    async def azscore(self, *args: Any, **kwargs: Any) -> Any:
        return await self.client.azscore(*args, **kwargs)

    @ignore_failures()
    def sscan(self, *args: Any, **kwargs: Any) -> Any:
        """Returns some members of a set: those of the first step of a scan."""
        return self.client.sscan(*args, **kwargs)

    @ignore_failures()
    async def asscan(self, *args: Any, **kwargs: Any) -> Any:
        """Returns some members of a set: those of the first step of a scan."""
        return await self.client.asscan(*args, **kwargs)

    def sscan_iter(self, *args: Any, **kwargs: Any) -> Any:
        """Yields the members of a set, from a scan in steps of `count`."""
        return each(self, self.client.sscan_iter(*args, **kwargs))

    def asscan_iter(self, *args: Any, **kwargs: Any) -> Any:
        """Yields the members of a set, from a scan in steps of `count`, for `async for`."""
        return aeach(self, self.client.asscan_iter(*args, **kwargs))


for _name, _method in vars(Structures).items():
    if not _name.startswith("_"):
        # An asynchronous method has that of the other.
        for _build in (f"_{_name}", f"_{_name[1:]}"):
            if hasattr(CommandBuilder, _build):
                _method.__doc__ = getattr(CommandBuilder, _build).__doc__
                break
