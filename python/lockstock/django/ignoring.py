"""`IGNORE_EXCEPTIONS`: a cache that fails like an empty one.

Covers all reads and writes, and no lock: a lock that could not be acquired must not look acquired.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar

from .exceptions import ConnectionInterrupted

__all__ = [
    "CONNECTION_INTERRUPTED",
    "aeach",
    "each",
    "ignore_failures",
    "ignored",
    "omit_exception",
]

CONNECTION_INTERRUPTED = object()

F = TypeVar("F", bound=Callable[..., Any])


def ignore_failures(return_value: Any = None) -> Callable[[F], F]:
    """Decorates a method of the backend. Without IGNORE_EXCEPTIONS, the method raises the cause."""

    def decorate(method: F) -> F:
        def failed(self: Any, failure: ConnectionInterrupted) -> Any:
            return ignored(
                self, failure, return_value() if callable(return_value) else return_value
            )

        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    return await method(self, *args, **kwargs)
                except ConnectionInterrupted as failure:
                    return failed(self, failure)

        else:

            @functools.wraps(method)
            def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    return method(self, *args, **kwargs)
                except ConnectionInterrupted as failure:
                    return failed(self, failure)

        # A traceback and a tracer show the name of the code: all would be `wrapper`.
        named: Any = wrapper
        named.__code__ = named.__code__.replace(**_names(method))
        return named  # type: ignore[no-any-return]

    return decorate


def ignored(cache: Any, failure: ConnectionInterrupted, return_value: Any) -> Any:
    """Returns the value, or raises the cause if the cache does not ignore failures."""
    if not cache._ignore_exceptions:
        raise failure.__cause__ or failure
    if cache._log_ignored_exceptions:
        cache.logger.exception("Exception ignored")
    return return_value


def each(cache: Any, found: Iterable[Any]) -> Iterator[Any]:
    """Yields what is found, and ends at a failure that the cache ignores."""
    try:
        yield from found
    except ConnectionInterrupted as failure:
        ignored(cache, failure, None)


async def aeach(cache: Any, found: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yields what is found, as `each` does."""
    try:
        async for one in found:
            yield one
    except ConnectionInterrupted as failure:
        ignored(cache, failure, None)


def _names(method: Any) -> dict[str, Any]:
    names = {"co_name": method.__name__}
    if sys.version_info >= (3, 11):
        names["co_qualname"] = method.__qualname__
    return names


def omit_exception(method: Any = None, return_value: Any = None) -> Any:
    """`ignore_failures` by django-redis' name, for classes that derive from the backend."""
    decorate = ignore_failures(return_value)
    return decorate if method is None else decorate(method)
