"""Compression by gzip of the standard library."""

from __future__ import annotations

import gzip
import zlib

from ..exceptions import CompressorError
from .base import BaseCompressor, decompress_streams

__all__ = ["GzipCompressor"]


# For zlib: the format of gzip.
_GZIP = 31


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
            return decompress_streams(
                value, self.max_bytes, lambda: zlib.decompressobj(wbits=_GZIP)
            )
        except zlib.error as error:
            raise CompressorError from error
