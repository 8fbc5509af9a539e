"""`TTL_JITTER`: values that are written together do not expire together."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .option_values import wrong_values

__all__ = ["Jitter"]

# The position of the timeout among the arguments of `set` and `add`.
_TIMEOUT = 2


class Jitter:
    """Subtracts a random part of a timeout, at most `share` of it."""

    def __init__(self, share: float) -> None:
        self._share = share

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Jitter | None:
        """Returns that of the options, None without `TTL_JITTER`.

        A wrong value raises at the first use of the cache.
        """
        if "TTL_JITTER" in wrong_values(options):
            return None
        share = options.get("TTL_JITTER")
        return cls(share) if share else None

    def shortened(self, timeout: Any, default: float | None) -> Any:
        """Returns the timeout in seconds to use: None stays, and so does what expires at once."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = default
        if timeout is None or timeout <= 0:
            return timeout
        return timeout * (1 - self._share * random.random())

    def applied(
        self, default: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of `set` or `add` with a shortened timeout."""
        if len(args) > _TIMEOUT:
            timeout = self.shortened(args[_TIMEOUT], default)
            return (*args[:_TIMEOUT], timeout, *args[_TIMEOUT + 1 :]), kwargs
        timeout = self.shortened(kwargs.get("timeout", DEFAULT_TIMEOUT), default)
        return args, {**kwargs, "timeout": timeout}
