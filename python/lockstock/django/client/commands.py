"""Commands of Redis on the keys of a cache: what is sent, and how the reply is read.

Written once for the synchronous and the asynchronous methods of a client. The names and arguments
are django-redis'; `hget`, `hmget`, `hgetall` and `hincrby` are additions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.core.cache.backends.base import DEFAULT_TIMEOUT

__all__ = ["MISSING", "Command", "CommandBuilder", "milliseconds"]

# The default of a `get` that distinguishes a missing value from None.
MISSING = object()


class Command(NamedTuple):
    """A command, and the function that reads its reply."""

    args: tuple[Any, ...]
    read: Callable[[Any], Any]
    is_write: bool = True

    @property
    def key(self) -> Any:
        """The key that determines the server."""
        return self.args[1]


def _same(reply: Any) -> Any:
    return reply


def milliseconds(timeout: float | timedelta) -> int:
    """Returns the whole milliseconds of a timeout in seconds."""
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    if isinstance(timeout, str):
        # It would be repeated a thousand times.
        message = f"a timeout must be a number of seconds, not {timeout!r}"
        raise TypeError(message)
    return int(timeout * 1000)


def _seconds(timeout: float | timedelta) -> int:
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    return int(timeout)


def _millis(timeout: float | timedelta) -> int:
    """A timeout that is in milliseconds already."""
    return milliseconds(timeout) if isinstance(timeout, timedelta) else int(timeout)


def _remaining(reply: Any) -> int | None:
    """Reads TTL and PTTL: 0 without a value, None without an end."""
    return None if reply == -1 else max(reply, 0)


def _score(reply: Any) -> float | None:
    return None if reply is None else float(reply)


class CommandBuilder:
    """Builds the commands. A client provides the keys and the encoding."""

    def make_key(self, key: Any, version: int | None = None) -> str:
        raise NotImplementedError

    def encode(self, value: Any, *, allow_int: bool = True) -> bytes | int:
        raise NotImplementedError

    def decode(self, value: Any) -> Any:
        raise NotImplementedError

    def _timeout(self, timeout: Any) -> Any:
        raise NotImplementedError

    def _keys(self, keys: Iterable[Any], version: int | None) -> list[str]:
        return [self.make_key(key, version=version) for key in keys]

    def _members(self, values: Iterable[Any]) -> list[Any]:
        return [self.encode(value) for value in values]

    def _set_of(self, reply: Any) -> set[Any]:
        return {self.decode(value) for value in reply}

    def _list_of(self, reply: Any) -> list[Any]:
        return [self.decode(value) for value in reply]

    # --- expiry ---------------------------------------------------------------

    def _ttl(self, key: Any, version: int | None = None) -> Command:
        """Returns how many seconds a value lives: 0 without a value, None without an end."""
        return Command(("TTL", self.make_key(key, version)), _remaining, False)

    def _pttl(self, key: Any, version: int | None = None) -> Command:
        """Returns how many milliseconds a value lives, as `ttl` does in seconds."""
        return Command(("PTTL", self.make_key(key, version)), _remaining, False)

    def _persist(self, key: Any, version: int | None = None) -> Command:
        """Lets a value never expire. Returns whether it would have expired."""
        return Command(("PERSIST", self.make_key(key, version)), bool)

    def _expire(self, key: Any, timeout: Any, version: int | None = None) -> Command:
        """Sets in how many seconds a value expires. Returns whether there is one."""
        seconds = _seconds(self._timeout(timeout))
        return Command(("EXPIRE", self.make_key(key, version), seconds), bool)

    def _pexpire(self, key: Any, timeout: Any, version: int | None = None) -> Command:
        """Sets in how many milliseconds a value expires. Returns whether there is one."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = milliseconds(self._timeout(timeout))
        return Command(("PEXPIRE", self.make_key(key, version), _millis(timeout)), bool)

    def _expire_at(self, key: Any, when: datetime | int, version: int | None = None) -> Command:
        """Sets when a value expires: a datetime, or a Unix time in seconds."""
        if isinstance(when, datetime):
            when = int(when.timestamp())
        return Command(("EXPIREAT", self.make_key(key, version), when), bool)

    def _pexpire_at(self, key: Any, when: datetime | int, version: int | None = None) -> Command:
        """Sets when a value expires: a datetime, or a Unix time in milliseconds."""
        if isinstance(when, datetime):
            when = int(when.timestamp() * 1000)
        return Command(("PEXPIREAT", self.make_key(key, version), when), bool)

    def _touch(
        self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Command:
        """Sets in how many seconds a value expires. Returns whether there is one."""
        timeout = self._timeout(timeout)
        if timeout is None:
            return self._persist(key, version)
        return Command(("PEXPIRE", self.make_key(key, version), milliseconds(timeout)), bool)

    def _has_key(self, key: Any, version: int | None = None) -> Command:
        """Returns whether there is a value under a key."""
        return Command(("EXISTS", self.make_key(key, version)), bool, False)

    # --- hashes ---------------------------------------------------------------

    def _hset(
        self,
        key: Any,
        field: Any = None,
        value: Any = None,
        mapping: Mapping[Any, Any] | None = None,
        version: int | None = None,
    ) -> Command:
        """Writes one field of a hash, or those of `mapping`. Returns the number of new fields."""
        pairs: list[Any] = []
        if field is not None:
            pairs += [field, self.encode(value)]
        for name, item in (mapping or {}).items():
            pairs += [name, self.encode(item)]
        if not pairs:
            message = "hset needs a field and a value, or a mapping"
            raise ValueError(message)
        return Command(("HSET", self.make_key(key, version), *pairs), int)

    def _hget(self, key: Any, field: Any, version: int | None = None) -> Command:
        """Returns the value of a field of a hash, None if there is none."""
        return Command(("HGET", self.make_key(key, version), field), self._optional, False)

    def _hmget(self, key: Any, fields: Sequence[Any], version: int | None = None) -> Command:
        """Returns the values of several fields of a hash, None for each that is missing."""

        def read(reply: Any) -> list[Any]:
            return [self._optional(value) for value in reply]

        return Command(("HMGET", self.make_key(key, version), *fields), read, False)

    def _hgetall(self, key: Any, version: int | None = None) -> Command:
        """Returns all fields of a hash with their values."""

        def read(reply: Any) -> dict[str, Any]:
            if not isinstance(reply, dict):
                reply = dict(zip(reply[::2], reply[1::2], strict=True))
            return {_text(field): self.decode(value) for field, value in reply.items()}

        return Command(("HGETALL", self.make_key(key, version)), read, False)

    def _hincrby(
        self, key: Any, field: Any, amount: int = 1, version: int | None = None
    ) -> Command:
        """Adds to the integer in a field of a hash, and returns the sum."""
        return Command(("HINCRBY", self.make_key(key, version), field, amount), int)

    def _hdel(self, key: Any, *fields: Any, version: int | None = None) -> Command:
        """Removes fields of a hash. Returns the number of fields removed."""
        return Command(("HDEL", self.make_key(key, version), *fields), int)

    def _hlen(self, key: Any, version: int | None = None) -> Command:
        """Returns the number of fields of a hash."""
        return Command(("HLEN", self.make_key(key, version)), int, False)

    def _hkeys(self, key: Any, version: int | None = None) -> Command:
        """Returns the fields of a hash."""

        def read(reply: Any) -> list[str]:
            return [_text(field) for field in reply]

        return Command(("HKEYS", self.make_key(key, version)), read, False)

    def _hexists(self, key: Any, field: Any, version: int | None = None) -> Command:
        """Returns whether a hash has a field."""
        return Command(("HEXISTS", self.make_key(key, version), field), bool, False)

    def _optional(self, reply: Any) -> Any:
        return None if reply is None else self.decode(reply)

    # --- sets -----------------------------------------------------------------

    def _sadd(self, key: Any, *values: Any, version: int | None = None) -> Command:
        """Adds members to a set. Returns the number of new members."""
        return Command(("SADD", self.make_key(key, version), *self._members(values)), int)

    def _scard(self, key: Any, version: int | None = None) -> Command:
        """Returns the number of members of a set."""
        return Command(("SCARD", self.make_key(key, version)), int, False)

    def _sdiff(self, *keys: Any, version: int | None = None) -> Command:
        """Returns the members of the first set that are in none of the others."""
        return Command(("SDIFF", *self._keys(keys, version)), self._set_of, False)

    def _sinter(self, *keys: Any, version: int | None = None) -> Command:
        """Returns the members that all sets have."""
        return Command(("SINTER", *self._keys(keys, version)), self._set_of, False)

    def _sunion(self, *keys: Any, version: int | None = None) -> Command:
        """Returns the members that any of the sets has."""
        return Command(("SUNION", *self._keys(keys, version)), self._set_of, False)

    def _sdiffstore(
        self,
        dest: Any,
        *keys: Any,
        version_dest: int | None = None,
        version_keys: int | None = None,
    ) -> Command:
        """Writes what `sdiff` returns as a set. Returns the number of its members."""
        names = self._keys(keys, version_keys)
        return Command(("SDIFFSTORE", self.make_key(dest, version_dest), *names), int)

    def _sinterstore(self, dest: Any, *keys: Any, version: int | None = None) -> Command:
        """Writes what `sinter` returns as a set. Returns the number of its members."""
        names = self._keys([dest, *keys], version)
        return Command(("SINTERSTORE", *names), int)

    def _sunionstore(self, destination: Any, *keys: Any, version: int | None = None) -> Command:
        """Writes what `sunion` returns as a set. Returns the number of its members."""
        names = self._keys([destination, *keys], version)
        return Command(("SUNIONSTORE", *names), int)

    def _smismember(self, key: Any, *members: Any, version: int | None = None) -> Command:
        """Returns for each value whether it is a member of a set."""

        def read(reply: Any) -> list[bool]:
            return [bool(value) for value in reply]

        name = self.make_key(key, version)
        return Command(("SMISMEMBER", name, *self._members(members)), read, False)

    def _sismember(self, key: Any, member: Any, version: int | None = None) -> Command:
        """Returns whether a value is a member of a set."""
        name = self.make_key(key, version)
        return Command(("SISMEMBER", name, self.encode(member)), bool, False)

    def _smembers(self, key: Any, version: int | None = None) -> Command:
        """Returns the members of a set."""
        return Command(("SMEMBERS", self.make_key(key, version)), self._set_of, False)

    def _smove(
        self, source: Any, destination: Any, member: Any, version: int | None = None
    ) -> Command:
        """Moves a member from one set to another. Returns whether it was there."""
        names = self.make_key(source, version), self.make_key(destination, version)
        return Command(("SMOVE", *names, self.encode(member)), bool)

    def _spop(self, key: Any, count: int | None = None, version: int | None = None) -> Command:
        """Removes and returns a random member of a set, or a set of `count` members."""
        args = ("SPOP", self.make_key(key, version)) + (() if count is None else (count,))
        return Command(args, self._optional if count is None else self._set_of)

    def _srandmember(
        self, key: Any, count: int | None = None, version: int | None = None
    ) -> Command:
        """Returns a random member of a set, or a list of `count` members."""
        args = ("SRANDMEMBER", self.make_key(key, version)) + (() if count is None else (count,))
        return Command(args, self._optional if count is None else self._list_of, False)

    def _srem(self, key: Any, *members: Any, version: int | None = None) -> Command:
        """Removes members of a set. Returns the number of members removed."""
        return Command(("SREM", self.make_key(key, version), *self._members(members)), int)

    # --- sorted sets ------------------------------------------------------------

    def _zadd(
        self,
        key: Any,
        mapping: Mapping[Any, float],
        nx: bool = False,
        xx: bool = False,
        ch: bool = False,
        incr: bool = False,
        gt: bool = False,
        lt: bool = False,
        version: int | None = None,
    ) -> Command:
        """Writes the scores of members of a sorted set. Returns the number of new members."""
        if not mapping:
            message = "zadd needs at least one member"
            raise ValueError(message)
        flags = {"NX": nx, "XX": xx, "GT": gt, "LT": lt, "CH": ch, "INCR": incr}
        words = [word for word, is_set in flags.items() if is_set]
        pairs: list[Any] = []
        for member, score in mapping.items():
            pairs += [score, self.encode(member, allow_int=False)]
        args = ("ZADD", self.make_key(key, version), *words, *pairs)
        return Command(args, _score if incr else _same)

    def _zcard(self, key: Any, version: int | None = None) -> Command:
        """Returns the number of members of a sorted set."""
        return Command(("ZCARD", self.make_key(key, version)), int, False)

    def _zcount(self, key: Any, min: Any, max: Any, version: int | None = None) -> Command:
        """Returns the number of members with a score from `min` to `max`."""
        return Command(("ZCOUNT", self.make_key(key, version), min, max), int, False)

    def _zincrby(self, key: Any, amount: float, value: Any, version: int | None = None) -> Command:
        """Adds to the score of a member of a sorted set, and returns the sum."""
        member = self.encode(value, allow_int=False)
        return Command(("ZINCRBY", self.make_key(key, version), amount, member), _score)

    def _zpopmax(self, key: Any, count: int | None = None, version: int | None = None) -> Command:
        """Removes and returns the member of the highest score, with the score; or `count` pairs."""
        return self._zpop("ZPOPMAX", key, count, version)

    def _zpopmin(self, key: Any, count: int | None = None, version: int | None = None) -> Command:
        """Removes and returns the member of the lowest score, with the score; or `count` pairs."""
        return self._zpop("ZPOPMIN", key, count, version)

    def _zpop(self, word: str, key: Any, count: int | None, version: int | None) -> Command:
        def read(reply: Any) -> Any:
            members = self._with_scores(reply, float)
            if count is not None:
                return members
            return members[0] if members else None

        args = (word, self.make_key(key, version)) + (() if count is None else (count,))
        return Command(args, read)

    def _zrange(
        self,
        key: Any,
        start: int,
        end: int,
        desc: bool = False,
        withscores: bool = False,
        score_cast_func: Callable[[Any], Any] = float,
        version: int | None = None,
    ) -> Command:
        """Returns the members from one rank to another, the lowest score first."""
        args = ("ZRANGE", self.make_key(key, version), start, end)
        return self._range(args + (("REV",) if desc else ()), withscores, score_cast_func)

    def _zrevrange(
        self,
        key: Any,
        start: int,
        end: int,
        withscores: bool = False,
        score_cast_func: Callable[[Any], Any] = float,
        version: int | None = None,
    ) -> Command:
        """Returns the members from one rank to another, the highest score first."""
        args = ("ZREVRANGE", self.make_key(key, version), start, end)
        return self._range(args, withscores, score_cast_func)

    def _zrangebyscore(
        self,
        key: Any,
        min: Any,
        max: Any,
        start: int | None = None,
        num: int | None = None,
        withscores: bool = False,
        score_cast_func: Callable[[Any], Any] = float,
        version: int | None = None,
    ) -> Command:
        """Returns the members with a score from `min` to `max`, the lowest first."""
        args = ("ZRANGEBYSCORE", self.make_key(key, version), min, max)
        return self._range(args, withscores, score_cast_func, start, num)

    def _zrevrangebyscore(
        self,
        key: Any,
        max: Any,
        min: Any,
        start: int | None = None,
        num: int | None = None,
        withscores: bool = False,
        score_cast_func: Callable[[Any], Any] = float,
        version: int | None = None,
    ) -> Command:
        """Returns the members with a score from `min` to `max`, the highest first."""
        args = ("ZREVRANGEBYSCORE", self.make_key(key, version), max, min)
        return self._range(args, withscores, score_cast_func, start, num)

    def _range(
        self,
        args: tuple[Any, ...],
        withscores: bool,
        score_cast_func: Callable[[Any], Any],
        start: int | None = None,
        num: int | None = None,
    ) -> Command:
        if (start is None) != (num is None):
            message = "start and num must be given together"
            raise ValueError(message)
        if withscores:
            args += ("WITHSCORES",)
        if start is not None:
            args += ("LIMIT", start, num)

        def read(reply: Any) -> list[Any]:
            if withscores:
                return self._with_scores(reply, score_cast_func)
            return self._list_of(reply)

        return Command(args, read, False)

    def _with_scores(self, reply: Any, cast: Callable[[Any], Any]) -> list[tuple[Any, Any]]:
        """Reads members with scores: pairs in RESP3, a flat list in RESP2."""
        if reply and not isinstance(reply[0], (list, tuple)):
            reply = list(zip(reply[::2], reply[1::2], strict=True))
        return [(self.decode(member), cast(score)) for member, score in reply]

    def _zrank(
        self, key: Any, value: Any, withscore: bool = False, version: int | None = None
    ) -> Command:
        """Returns the rank of a member, 0 for the lowest score, None if it is no member."""
        member = self.encode(value, allow_int=False)
        args = ("ZRANK", self.make_key(key, version), member)
        return Command(args + (("WITHSCORE",) if withscore else ()), _same, False)

    def _zrem(self, key: Any, *values: Any, version: int | None = None) -> Command:
        """Removes members of a sorted set. Returns the number of members removed."""
        members = [self.encode(value, allow_int=False) for value in values]
        return Command(("ZREM", self.make_key(key, version), *members), int)

    def _zremrangebyscore(
        self, key: Any, min: Any, max: Any, version: int | None = None
    ) -> Command:
        """Removes the members with a score from `min` to `max`. Returns their number."""
        return Command(("ZREMRANGEBYSCORE", self.make_key(key, version), min, max), int)

    def _zscore(self, key: Any, value: Any, version: int | None = None) -> Command:
        """Returns the score of a member of a sorted set, None if it is no member."""
        member = self.encode(value, allow_int=False)
        return Command(("ZSCORE", self.make_key(key, version), member), _score, False)


def _text(field: Any) -> str:
    return field.decode() if isinstance(field, bytes) else field
