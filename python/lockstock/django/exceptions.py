"""Errors of the cache backend, by django-redis' names."""

from __future__ import annotations

from typing import Any

__all__ = ["CompressorError", "ConnectionInterrupted"]


class ConnectionInterrupted(Exception):
    """The store is unavailable. The cause is an error of `lockstock.errors`.

    Raised by the methods of a client; those of the backend raise its cause.
    """

    def __init__(self, connection: Any = None) -> None:
        super().__init__(connection)
        self.connection = connection

    def __str__(self) -> str:
        return f"Redis {type(self.__cause__).__name__}: {self.__cause__}"


class CompressorError(Exception):
    """The bytes are not compressed, or not by this compressor."""
