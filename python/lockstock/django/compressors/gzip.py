"""Compression by gzip of the standard library."""

from __future__ import annotations

import gzip
import zlib

from ..exceptions import CompressorError
from .base import BaseCompressor

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
        decompressed, rest = b"", value
        try:
            while True:
                member = zlib.decompressobj(wbits=_GZIP)
                left = self.max_bytes - len(decompressed)
                decompressed += member.decompress(rest, max(left, 1))
                if not member.eof or left <= 0:
                    raise CompressorError
                # Zeros may follow a member.
                rest = member.unused_data.lstrip(b"\0")
                if not rest:
                    return decompressed
        except zlib.error as error:
            raise CompressorError from error
