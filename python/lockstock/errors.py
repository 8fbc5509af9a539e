"""Errors of this package.

Every error derives from `Error`. Applications that came from redis-py catch its classes: if
`redis` has been imported when an error is raised, the error also derives from the class of
redis-py that has the same meaning. redis-py is never imported for that.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Error",
    "Invalid",
    "LockError",
    "LockNotOwnedError",
    "Malformed",
    "ResponseError",
    "TimedOut",
    "Unavailable",
]


class Error(Exception):
    """The base of all errors of this package."""

    def __repr__(self) -> str:
        # Not redis-py's, which needs what its constructor sets.
        return f"{type(self).__name__}({', '.join(map(repr, self.args))})"

    def __reduce__(self) -> Any:
        # A class that also derives from redis-py's cannot be imported by its name.
        cls = next(cls for cls in type(self).__mro__ if _is_importable(cls))
        return _restored, (cls, self.args, self.__dict__)


class Invalid(Error, ValueError):
    """The call can never succeed.

    A name is too long, a lease is out of range, or a URL is malformed.
    """


class Unavailable(Error, ConnectionError):
    """The store is down, does not reply in time, or rejects the command.

    The command may have been executed nevertheless. The state of a lock is unknown.
    """


class TimedOut(Unavailable, TimeoutError):
    """The store did not reply in time."""


class ResponseError(Unavailable):
    """The store rejected the command."""


class Malformed(Error):
    """The value in the store is not what the command expects."""


class LockError(Error, ValueError):
    """A lock is not held, or was not acquired."""

    def __init__(self, message: str | None = None, lock_name: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.lock_name = lock_name


class LockNotOwnedError(LockError):
    """The lock is no longer held: its lease has ended, or the store no longer has it.

    Another holder may have worked at the same time.
    """


# The class of redis-py with the same meaning.
_OF_REDIS_PY = {
    Error: "RedisError",
    Invalid: "RedisError",
    Unavailable: "ConnectionError",
    TimedOut: "TimeoutError",
    ResponseError: "ResponseError",
    Malformed: "ResponseError",
    LockError: "LockError",
    LockNotOwnedError: "LockNotOwnedError",
}
_raised: dict[type[Error], type[Error]] = {}


def raisable(cls: type[Error]) -> type[Error]:
    """Returns the class to raise for `cls`: itself, or a subclass that redis-py's users catch."""
    raised = _raised.get(cls)
    if raised is None:
        exceptions: Any = sys.modules.get("redis.exceptions")
        if exceptions is None:
            # Not remembered: the application may still import redis-py.
            return cls
        theirs = getattr(exceptions, _OF_REDIS_PY[cls])
        # What redis-py's constructor sets, which is not called: `error_type` and others.
        attributes = vars(theirs())
        raised = type(cls.__name__, (cls, theirs), {**attributes, "__module__": cls.__module__})
        _raised[cls] = raised
    return raised


def error(cls: type[Error], message: str, **attributes: Any) -> Error:
    """Returns an error to raise. Called by the native module too."""
    return raisable(cls)(message, **attributes)


def _is_importable(cls: type) -> bool:
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls


def _restored(cls: type[Error], args: tuple[Any, ...], state: dict[str, Any]) -> Error:
    """Returns an error from its pickle."""
    restored = raisable(cls)(*args) if cls in _OF_REDIS_PY else cls(*args)
    restored.__dict__.update(state)
    return restored
