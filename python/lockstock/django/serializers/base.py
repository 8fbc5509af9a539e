"""The interface of a serializer."""

from __future__ import annotations

from typing import Any

__all__ = ["BaseSerializer"]


class BaseSerializer:
    """Encodes values as bytes. A subclass may be named in `OPTIONS["SERIALIZER"]`."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Receives the `OPTIONS` of the cache."""

    def dumps(self, value: Any) -> bytes:
        """Returns the bytes of a value."""
        raise NotImplementedError

    def loads(self, value: bytes) -> Any:
        """Returns the value of bytes that `dumps` returned."""
        raise NotImplementedError
