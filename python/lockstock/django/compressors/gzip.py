"""Compression by gzip of the standard library."""

from __future__ import annotations

import gzip
import zlib

from ..exceptions import CompressorError
from .base import BaseCompressor

__all__ = ["GzipCompressor"]


class GzipCompressor(BaseCompressor):
    """gzip, for values of more than `min_length` bytes."""

    min_length = 15

    def compress(self, value: bytes) -> bytes:
        if len(value) > self.min_length:
            # Without the time: equal values are equal members of a set.
            return gzip.compress(value, mtime=0)
        return value

    def decompress(self, value: bytes) -> bytes:
        try:
            return gzip.decompress(value)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise CompressorError from error
