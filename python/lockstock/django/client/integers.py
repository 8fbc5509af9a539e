"""Methods of integers and of versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exceptions import ConnectionInterrupted
from ..util import CacheKey
from .commands import MISSING, Command
from .values import Values

__all__ = ["Integers"]

_INCR_IF_PRESENT = (
    "if redis.call('EXISTS', KEYS[1]) == 0 then return false end "
    "return redis.call('INCRBY', KEYS[1], ARGV[1])"
)


class Integers(Values):
    """Adds to integers, and moves values to another version."""

    if TYPE_CHECKING:
        # That of `DefaultClient`.
        def pttl(self, key: Any, version: int | None = None, client: Any = None) -> int | None: ...

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
        try:
            total = NotImplemented
            if client is None:
                script = None if ignore_key_check else _INCR_IF_PRESENT
                total = self._call("incr", key, version, delta, script)
            if total is NotImplemented:
                name = self.make_key(key, version=version)
                total = self._execute(self._incr(name, delta, ignore_key_check), client)
        except ConnectionInterrupted as failure:
            if not self._is_no_integer(failure):
                raise
            # No integer of 64 bits: added here, which is not atomic.
            name = self.make_key(key, version=version)
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
