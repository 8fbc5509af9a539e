"""Compression by Zstandard."""

from __future__ import annotations

from ... import _core
from ..exceptions import CompressorError
from .base import BaseCompressor

__all__ = ["ZStdCompressor"]


class ZStdCompressor(BaseCompressor):
    """Zstandard, for values of more than `min_length` bytes."""

    min_length = 15

    def compress(self, value: bytes) -> bytes:
        if len(value) > self.min_length:
            return _core.zstd_compress(value)
        return value

    def decompress(self, value: bytes) -> bytes:
        try:
            return _core.zstd_decompress(value, self.max_bytes)
        except ValueError as error:
            raise CompressorError from error
