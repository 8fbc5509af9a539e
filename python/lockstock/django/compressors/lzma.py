"""Compression by lzma of the standard library."""

from __future__ import annotations

import lzma

from ..exceptions import CompressorError
from .base import BaseCompressor, decompress_streams

__all__ = ["LzmaCompressor"]


# What a stream may have the decompressor allocate: preset 9 takes 65 MiB.
_MAX_MEMORY_BYTES = 128 * 1024 * 1024


class LzmaCompressor(BaseCompressor):
    """lzma, for values of more than `min_length` bytes."""

    min_length = 100
    preset = 4

    def compress(self, value: bytes) -> bytes:
        if len(value) > self.min_length:
            return lzma.compress(value, preset=self.preset)
        return value

    def decompress(self, value: bytes) -> bytes:
        try:
            decompressed = decompress_streams(
                value, self.max_bytes, lambda: lzma.LZMADecompressor(memlimit=_MAX_MEMORY_BYTES)
            )
        except (lzma.LZMAError, EOFError) as error:
            raise CompressorError from error
        if not decompressed:
            # Zeros are an empty stream. No value that is compressed is empty.
            raise CompressorError
        return decompressed
