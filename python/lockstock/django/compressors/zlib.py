"""Compression by zlib of the standard library."""

from __future__ import annotations

import zlib

from ..exceptions import CompressorError
from .base import BaseCompressor

__all__ = ["ZlibCompressor"]


class ZlibCompressor(BaseCompressor):
    """zlib, for values of more than `min_length` bytes."""

    min_length = 15
    preset = 6

    def compress(self, value: bytes) -> bytes:
        if len(value) > self.min_length:
            return zlib.compress(value, self.preset)
        return value

    def decompress(self, value: bytes) -> bytes:
        try:
            decompressor = zlib.decompressobj()
            decompressed = decompressor.decompress(value, self.max_bytes)
        except zlib.error as error:
            raise CompressorError from error
        if not decompressor.eof:
            raise CompressorError
        return decompressed
