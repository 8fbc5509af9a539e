"""Compression by lzma of the standard library."""

from __future__ import annotations

import lzma

from ..exceptions import CompressorError
from .base import BaseCompressor

__all__ = ["LzmaCompressor"]


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
            return lzma.decompress(value)
        except lzma.LZMAError as error:
            raise CompressorError from error
