"""How the values of a cache become bytes."""

from __future__ import annotations

import json
import pickle
from typing import Any, Generic, TypeVar

__all__ = ["BYTES", "JSON", "PICKLE", "Codec"]

T = TypeVar("T")


class Codec(Generic[T]):
    """Encodes values of one type. Derive from it for a format of your own."""

    def encode(self, value: T) -> bytes:
        """Returns the bytes of a value. Raises an exception if it cannot be encoded."""
        raise NotImplementedError

    def decode(self, value: bytes) -> T:
        """Returns the value of bytes that `encode` returned.

        Raises `ValueError` for other bytes.
        """
        raise NotImplementedError


class _Bytes(Codec[bytes]):
    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, value: bytes) -> bytes:
        return value


class _Json(Codec[Any]):
    def encode(self, value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    def decode(self, value: bytes) -> Any:
        return json.loads(value)


class _Pickle(Codec[Any]):
    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def decode(self, value: bytes) -> Any:
        return pickle.loads(value)


BYTES: Codec[bytes] = _Bytes()
"""Bytes as they are."""

JSON: Codec[Any] = _Json()
"""JSON, as the Rust crate writes it: both share the entries of a namespace. Tuples come back as
lists."""

PICKLE: Codec[Any] = _Pickle()
"""Pickles. Loading one executes what it contains: use it only if no program that is not trusted can
write to the store."""
